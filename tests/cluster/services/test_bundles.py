"""What ranks and replicas ask Ray for; no Ray is started."""

from actors.pool import placement
from learners.group import learner_group
from o3rl.config import ClusterConfig, RolloutsConfig


def test_a_replica_goes_where_its_resource_is():
    assert placement.bundle(RolloutsConfig(cpus=2, gpus=0)) == {"CPU": 2}
    asked = placement.bundle(RolloutsConfig(cpus=1, gpus=2, tensor_parallel=2, resource="spot"))
    assert asked == {"CPU": 1, "GPU": 2, "spot": 0.001}  # a thousand of them fit on one node


def test_a_rank_goes_where_its_resource_is():
    assert learner_group.rank_bundle(ClusterConfig(cpus_per_rank=4), on_gpu=False) == {"CPU": 4}
    asked = learner_group.rank_bundle(
        ClusterConfig(address="auto", learner_resource="stays"), on_gpu=True
    )
    assert asked == {"CPU": 1, "GPU": 1, "stays": 0.001}
