"""What `o3rl train` checks and keeps before anything is started."""

import json

import pytest

from cluster.train import _refuse_used, _state


def test_every_start_from_a_checkpoint_is_an_incarnation_of_its_own(tmp_path):
    """Also the second one from the same checkpoint: it would publish the same version numbers."""
    checkpoint = tmp_path / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    part = {"incarnation": 0, "n": 2}
    (checkpoint / "loop.json").write_text(json.dumps({"loop": part, "admission": part}))
    assert _state(tmp_path, None) == {}
    for number in (0, 1, 2):  # `restore` makes it one more
        state = _state(tmp_path, checkpoint)
        assert state["loop"]["incarnation"] == state["admission"]["incarnation"] == number


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path):
    _refuse_used(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"a run lies in .*--resume"):
        _refuse_used(tmp_path)
