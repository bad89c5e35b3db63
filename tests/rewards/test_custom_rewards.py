"""A user's own reward: its part and weight, and each way in which it can be wrong."""

import pytest
from custom_rewards import brevity
from spatial_row import DOG, TRUTH, claim, scored

from o3rl.types import Row, Task
from rewards.custom import CustomFault, load_custom, with_custom

ROW = Row("r1", Task.TEMPORAL_SPATIAL, "STR_plm", "What?", "v.mp4", TRUTH)
REWARD = scored(claim("dog", 5.0, DOG))


def applied(name: str, text: str):
    functions = load_custom({name: f"custom_rewards:{name}"})
    return with_custom(REWARD, text, row=ROW, functions=functions, weights={name: 0.5})


def test_it_is_a_further_weighted_part():
    got = applied("brevity", "word " * 200)
    assert got.parts == {**REWARD.parts, "brevity": 0.5}  # 100/200 words
    assert got.total == pytest.approx(REWARD.total + 0.5 * 0.5)
    assert brevity("word", ROW, REWARD) == 1.0


@pytest.mark.parametrize(("text", "kind"), [("raise", "KeyError"), ("nan", "ValueError")])
def test_what_it_raises_is_a_value(text, kind):
    fault = applied("poison", text)
    assert isinstance(fault, CustomFault)
    assert fault.kind == kind
    assert "custom_rewards" in fault.place
    assert "'poison'" in str(fault)


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("mine", "no_such_module:f", "importable on every node"),
        ("mine", "custom_rewards:nothing", "has no function or class 'nothing'"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(name, target, message):
    with pytest.raises(ValueError, match=rf"rewards.custom.{name}.*{message}"):
        load_custom({name: target})
