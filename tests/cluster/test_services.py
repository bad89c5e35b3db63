"""How the services of a run are handed to its loop."""

import asyncio
from typing import Any

import pytest

from cluster.services import Learning


class Noted:
    """A pool or a learner group that notes what it is asked."""

    def __init__(self, asked: list[str]):
        self._asked = asked

    async def sleep(self) -> None:
        self._asked.append("sleep")

    async def update(self, groups: list[Any]) -> dict[str, float]:
        self._asked.append(f"learn from {len(groups)}")
        return {"loss": 1.0}


@pytest.mark.parametrize("by_turns", [False, True])
def test_an_engine_on_the_learners_gpu_sleeps_before_it_learns(by_turns):
    asked: list[str] = []
    learning: Any = Learning(Noted(asked), Noted(asked) if by_turns else None)  # pyright: ignore
    assert asyncio.run(learning.update([])) == {"loss": 1.0}
    assert asked == ["sleep"] * by_turns + ["learn from 0"]
