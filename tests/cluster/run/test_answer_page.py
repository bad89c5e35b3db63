"""What `o3rl answer` shows: a response that nobody scored, for there is no truth."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.run.answer import _config, _show, _with_clips, run
from o3rl.config.shipped import find, model_path
from o3rl.evaluation.evidence import Entry
from o3rl.media.pictures import Unreadable
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "visual QA", "clip": "o.mp4"}, "--video is .*; it must be left out for an image"),
        ({"clip": "o.avi"}, r"--video is .*; it must be \*\.mp4"),
        ({"gif": "old.gif"}, "--gif is .*old.gif'; it must be a new file"),
    ],
)
def test_clips_that_cannot_be_written_are_refused_before_anything_starts(tmp_path, given, message):
    for name in ("v.mp4", "old.gif"):
        (tmp_path / name).touch()
    asked = {"task": Task.TEMPORAL_SPATIAL.value, "page": "page.html", "clip": None, "gif": None}
    asked |= {"video": "v.mp4"} | given
    for name in ("video", "page", "clip", "gif"):
        asked[name] = asked[name] and tmp_path / str(asked[name])
    with pytest.raises(ValueError, match=message):
        run(argparse.Namespace(**asked))


def test_a_page_without_a_readable_clip_is_still_a_page(tmp_path, caplog):
    """Unless the clip was asked for."""
    row = Row("q", Task.MCQ, "", "Which?", "v.mp4", Truth(""))
    plan = FramePlan((0,), (0.0,), (56, 56), 4.0)
    frames = np.zeros((1, 56, 56, 3), np.uint8)
    entry = Entry(row, plan, frames, "<answer>A</answer>", Reward({}, 0.0), "asked")
    (tmp_path / "v.mp4").write_bytes(b"no video")
    assert _with_clips(entry, tmp_path / "v.mp4", None, None, tmp_path) == entry
    assert "the page has no clip" in caplog.text
    with pytest.raises(Unreadable):
        _with_clips(entry, tmp_path / "v.mp4", tmp_path / "o.mp4", None, tmp_path)


@pytest.mark.parametrize(("overrides", "address"), [([], ""), (["cluster.address=h:1"], "h:1")])
def test_a_model_of_a_cluster_is_asked_here_unless_told_otherwise(tmp_path, overrides, address):
    beside = find("tiny_demo").read_text().replace("cluster:\n", "cluster:\n  address: auto\n")
    (tmp_path / "config.yaml").write_text(beside)
    shutil.copytree(model_path("tiny"), tmp_path / "model")
    options = argparse.Namespace(
        model=str(tmp_path / "model"), config=None, overrides=overrides, video=Path("v.mp4")
    )
    assert _config(options).cluster.address == address
