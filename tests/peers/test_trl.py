"""The comparison with TRL: its arithmetic, and what it says where TRL is not."""

from argparse import Namespace
from importlib.util import find_spec

import pytest

from cluster.bench.random_models import Shape
from tests.peers.trl import StepSeconds, report, run


def test_medians_are_compared():
    ours = [StepSeconds(2.0, 1.0), StepSeconds(4.0, 2.0), StepSeconds(3.0, 1.5)]
    trl = [StepSeconds(12.0, 9.0)]
    found = report(Shape(24, 5, 6), ours, trl)
    # Medians 3 and 12 s a step, 1.5 and 9 s of learning, 6 samples.
    assert found["samples_per_second"] == {"ours": 2.0, "trl": 0.5}
    assert found["learned_per_second"] == {"ours": 4.0, "trl": pytest.approx(2 / 3)}
    assert (found["speedup"], found["learner_speedup"]) == (4.0, 6.0)
    assert found["seconds"]["trl"] == [{"whole": 12.0, "learn": 9.0}]


@pytest.mark.skipif(find_spec("trl") is not None, reason="trl is installed")
def test_without_trl_it_says_what_to_install():
    with pytest.raises(ValueError, match=r"trl is not installed; .* pip install 'o3rl\[peers\]'"):
        run(Namespace())
