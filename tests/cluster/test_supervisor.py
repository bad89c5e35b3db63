"""What the supervisor of a run counts."""

from cluster.supervisor import Losses
from o3rl.checkpoints import Checkpoint


def test_losses_are_counted_since_the_last_new_checkpoint(tmp_path):
    first, third = Checkpoint(tmp_path / "step-000001"), Checkpoint(tmp_path / "step-000003")
    losses = Losses()
    last = [None, None, first, first, third, first]  # the last one was damaged: nothing is reached
    assert [losses.add(checkpoint) for checkpoint in last] == [1, 2, 1, 2, 1, 2]
