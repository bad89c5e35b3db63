"""Which engine a replica makes; without vLLM."""

import pytest

from actors.engine.replica import make_engine
from o3rl.config import RolloutsConfig
from tests.actors.conftest import SAMPLING, model


class Own:
    """As little of an engine as can be made."""

    def __init__(self, model, *, sampling, rollouts):
        self.made_with = (model, sampling, rollouts)


def test_a_class_of_the_users_own_is_made_like_ours(tmp_path):
    rollouts = RolloutsConfig(engine=f"{__name__}:Own")
    engine = make_engine(model(tmp_path), sampling=SAMPLING, rollouts=rollouts)
    assert isinstance(engine, Own)
    assert engine.made_with == (model(tmp_path), SAMPLING, rollouts)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("nowhere_at_all:Engine", "rollouts.engine is 'nowhere_at_all:Engine': No module named"),
        (f"{__name__}:Missing", "has no function or class 'Missing'"),
    ],
)
def test_one_that_is_not_there_is_named(engine, said, tmp_path):
    rollouts = RolloutsConfig(engine=engine)
    with pytest.raises(ValueError, match=said):
        make_engine(model(tmp_path), sampling=SAMPLING, rollouts=rollouts)
