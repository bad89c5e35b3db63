"""The stretches of a run that was scaled."""

from tests.faults.elasticity import Stretch, stretches


def test_steps_are_cut_where_the_number_of_replicas_changes():
    healthy = [(1, 1.0), (2, 1.0), (3, 3.0), (4, 3.0), (5, 3.0), (6, 1.0)]
    seconds = [(step, 9.0 / replicas) for step, replicas in healthy]
    found = stretches({"pool/healthy": healthy, "seconds/step": seconds})
    assert found == [Stretch(1, 2, 18.0), Stretch(3, 3, 9.0), Stretch(1, 1, 9.0)]
    assert [round(part.prompts_per_second, 2) for part in found] == [0.89, 2.67, 0.89]
