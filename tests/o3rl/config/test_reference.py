"""Settings as they are read from the code: types, rules and comments."""

from dataclasses import dataclass

import pytest

from o3rl.config import LoopConfig, RunConfig
from o3rl.config.reference import _comments, settings, summary_of

ALL = {f"{each.section}.{each.name}": each for each in settings()}


def test_every_field_is_there_once():
    assert len(ALL) == len(settings())
    assert {"." + name for name in ("name", "folder", "seed")} < ALL.keys()
    assert ALL["loop.groups"].default == LoopConfig().groups
    assert "model.path" in ALL
    assert ".model" not in ALL


@pytest.mark.parametrize("name", ALL)
def test_every_setting_says_what_it_is_for(name):
    assert ALL[name].comment, f"{name} has no comment beside it in o3rl/config"


def test_words_are_comment_choices_and_rule():
    assert ALL["learning.zero"].words.endswith("2 or 3")
    assert "one of constant, linear, cosine" in ALL["learning.schedule"].words
    assert ALL["loop.max_staleness"].words == "Versions; 0: synchronous, and reproducible; in [0, 16], 0 (synchronous)"  # fmt: skip  # noqa: E501


def test_comments_above_and_behind_belong_to_their_field():
    assert _comments(Commented) == {"one": "", "two": "above it and behind", "three": "its own"}
    assert summary_of(RunConfig) == "Everything of a run. `folder` holds all that it makes."


@dataclass
class Commented:
    """A section."""

    one: int = 1
    # above it
    two: str = "#2"  # and behind
    three: int = 3  # its own
