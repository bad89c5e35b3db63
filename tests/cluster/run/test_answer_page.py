"""What `o3rl answer` shows: a response that nobody scored, for there is no truth."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.run.answer import _config, _show
from o3rl.config.shipped import find, model_path
from o3rl.evaluation.evidence import Entry
from o3rl.text.boxes import ABSOLUTE
from o3rl.types import Claim, FramePlan, Reward, Row, Task, Truth


def test_an_unscored_answer_is_shown_with_its_claims(tmp_path, capsys):
    row = Row("question", Task.TEMPORAL_SPATIAL, "", "What shape is it?", "v.mp4", Truth(""))
    plan = FramePlan((0, 4), (0.0, 2.0), (56, 56), 4.0)
    claim = Claim("red object[/x]", 2.0, ((0.1, 0.1, 0.5, 0.5),))
    text = (
        "<think><obj>red object</obj><box>[6,6,28,28]</box>at<t>2.0</t>s</think>"
        "<answer>circle</answer>"
    )
    frames = np.zeros((2, 56, 56, 3), np.uint8)
    entry = Entry(row, plan, frames, text, Reward({}, 0.0, (claim,)), "not scored")
    _show(entry, tmp_path / "page.html", ABSOLUTE)
    said = capsys.readouterr().out
    assert "answer: circle" in said
    assert "red object[/x]" in said
    page = (tmp_path / "page.html").read_text()
    assert "What shape is it?" in page
    assert "mean reward" not in page


@pytest.mark.parametrize(("overrides", "address"), [([], ""), (["cluster.address=h:1"], "h:1")])
def test_a_model_of_a_cluster_is_asked_here_unless_told_otherwise(tmp_path, overrides, address):
    beside = find("tiny_demo").read_text().replace("cluster:\n", "cluster:\n  address: auto\n")
    (tmp_path / "config.yaml").write_text(beside)
    shutil.copytree(model_path("tiny"), tmp_path / "model")
    options = argparse.Namespace(
        model=str(tmp_path / "model"), config=None, overrides=overrides, video=Path("v.mp4")
    )
    assert _config(options).cluster.address == address
