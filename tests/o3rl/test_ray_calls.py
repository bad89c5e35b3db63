"""What is asked of Ray; no Ray is started."""

from o3rl.ray_calls import bundle


def test_an_actor_goes_where_its_resource_is():
    assert bundle(cpus=2, gpus=0) == {"CPU": 2}
    asked = bundle(cpus=1, gpus=0.5, resource="spot")
    assert asked == {"CPU": 1, "GPU": 0.5, "spot": 0.001}  # a thousand of them fit on one node
