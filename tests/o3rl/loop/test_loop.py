"""The loop on fakes of ten lines: its laws, whatever fails and in whatever order things finish."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o3rl import config
from o3rl.data.row_order import RowOrder
from o3rl.loop.advantages import scored
from o3rl.loop.loop import Loop
from o3rl.loop.prompt_source import PromptSource
from o3rl.persistence.ledger import ADMITTED, SET_ASIDE, SKIPPED, TRAINED, Ledger
from o3rl.types import Failure, FailureKind, Group, Prompt, Reward, Version
from tests.o3rl.made import PLAN, group_of, prompt, reward, row

Fault = Callable[[Prompt], Failure | None]


class Media:
    def __init__(self, broken: set[str]):
        self.broken = broken

    async def prepare(self, row, *, training: bool):
        assert training
        return (
            Failure(None, None, "corrupt", FailureKind.FILE)
            if row.id in self.broken
            else (PLAN, row.id)
        )


class Sampler:
    """Answers in a random order, by the version that it loaded last."""

    def __init__(self, fault: Fault, seed: int):
        self.fault, self.random = fault, Random(seed)
        self.version = Version(-1, -1)
        self.asked: list[Prompt] = []
        self.finished: list[int] = []

    async def sample(self, prompt: Prompt) -> Group | Failure:
        self.asked.append(prompt)
        for _ in range(self.random.randrange(9)):
            await asyncio.sleep(0)
        if failure := self.fault(prompt):
            return failure
        self.finished.append(prompt.group)
        return group_of(prompt, samples=3, version=self.version)


class Weights:
    """Handed over at once; the sampler has them a little later."""

    def __init__(self, sampler: Sampler):
        self.sampler, self.published = sampler, []

    async def hand_over(self, version: Version):
        self.published.append(version)
        loading = asyncio.create_task(self.load(version))
        await asyncio.sleep(0)
        return {"sync/publish_seconds": 0.0}, loading

    async def load(self, version: Version):
        self.sampler.version = version
        return {"sync/bytes": 8.0}


class Scorers:
    def __init__(self, bad: Callable[[Group, int], bool]):
        self.bad = bad
        self.seconds = 0.0

    async def score(self, group: Group) -> tuple[Reward | Failure, ...]:
        self.seconds += 0.5
        return tuple(
            Failure(group.prompt.group, i, "scorer died", FailureKind.SERVICE)
            if self.bad(group, i)
            else reward(float(i))
            for i in range(len(group.rollouts_G))
        )


class Learner:
    def __init__(self):
        self.batches: list[list[Prompt]] = []
        self.failures: tuple[Failure, ...] = ()
        self.refuses: set[int] = set()

    async def update(self, groups):
        self.batches.append([each.group.prompt for each in groups])
        numbers = [each.group.prompt.group for each in groups]
        self.failures = tuple(
            Failure(n, None, "frames differ", FailureKind.LEARNER)
            for n in numbers
            if n in self.refuses
        )
        return {"loss": 0.5}


class Observer:
    def __init__(self, act: Callable[[], None] = lambda: None):
        self.act, self.steps = act, []

    async def stepped(self, step, version, groups, metrics):
        self.steps.append((step, version, [g.group.prompt.group for g in groups], metrics))
        self.act()


class World:
    """A loop over `rows` rows with the given faults."""

    def __init__(
        self,
        *,
        rows: int = 8,
        groups: int = 4,
        attempts: int = 3,
        fault: Fault = lambda _: None,
        bad: Callable[[Group, int], bool] = lambda *_: False,
        broken: set[str] = frozenset(),
        seed: int = 0,
        staleness: int = 0,
        **more,
    ):
        made = [row(i) for i in range(rows)]
        self.ledger = Ledger()
        order = RowOrder([each.task for each in made], 0)
        admission = PromptSource(made, order, Media(broken), self.ledger, planned=2 * rows)
        self.sampler, self.learner, self.observer = Sampler(fault, seed), Learner(), Observer()
        self.weights = Weights(self.sampler)
        self.loop = Loop(
            config.LoopConfig(groups=groups, max_attempts=attempts, max_staleness=staleness),
            admission,
            self.ledger,
            sampler=self.sampler,
            scorers=Scorers(bad),
            learner=self.learner,
            weights=self.weights,
            longest=8,
            **more,
        )
        self.loop.observe(self.observer)

    def run(self, steps: int) -> "World":
        asyncio.run(asyncio.wait_for(self.loop.run(steps), 30))
        return self


def fails(group: int, *, attempts: int = 99) -> Fault:
    """The first `attempts` attempts of one prompt fail."""
    return lambda prompt: (
        Failure(group, None, "replica died", FailureKind.SERVICE)
        if prompt.group == group and prompt.attempt < attempts
        else None
    )


def test_a_batch_is_in_order_of_its_groups_whatever_finished_first():
    worlds = [World(seed=seed).run(2) for seed in range(5)]
    assert len({tuple(world.sampler.finished) for world in worlds}) > 1
    for world in worlds:
        assert [[p.group for p in batch] for batch in world.learner.batches] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
        ]
        assert world.learner.batches == worlds[0].learner.batches


def test_weights_are_handed_over_before_the_first_step_and_after_each():
    world = World().run(2)
    assert world.weights.published == [Version(0, 0), Version(0, 1), Version(0, 2)]
    assert world.sampler.version == world.loop.version == Version(0, 2)
    assert [(step, version) for step, version, *_ in world.observer.steps] == [
        (1, Version(0, 1)),
        (2, Version(0, 2)),
    ]
    assert [entry.version for entry in world.ledger.entries()] == [1, 1, 1, 1, 2, 2, 2, 2]


def test_what_ends_while_weights_are_on_their_way_is_kept():
    """Replicas that take weights from the learner's GPU serve them before `hand_over` returns."""
    world = World(rows=24, staleness=1)
    hand_over = world.weights.hand_over

    async def hand_over_and_have_them_taken(version: Version):
        metrics = await hand_over(version)
        world.sampler.version = version
        for _ in range(20):
            await asyncio.sleep(0)
        return metrics

    world.weights.hand_over = hand_over_and_have_them_taken
    world.run(6)
    assert {prompt.attempt for prompt in world.sampler.asked} == {0}
    assert len(world.sampler.finished) == 24


def test_running_on_goes_on():
    world = World().run(1)
    world.run(2)
    assert world.loop.step == 2
    assert [step for step, *_ in world.observer.steps] == [1, 2]


def test_a_failed_prompt_is_tried_again_as_the_next_attempt():
    world = World(fault=fails(1, attempts=2)).run(1)
    tried = [prompt.attempt for prompt in world.sampler.asked if prompt.group == 1]
    assert tried == [0, 1, 2]
    assert [(p.group, p.attempt) for p in world.learner.batches[0]] == [
        (0, 0),
        (1, 2),
        (2, 0),
        (3, 0),
    ]
    entry = world.ledger.entries()[1]
    assert (entry.attempts, entry.outcome, entry.reason) == (3, TRAINED, "replica died")


def test_after_its_last_attempt_a_prompt_is_set_aside_and_another_takes_its_place():
    world = World(fault=fails(1)).run(1)
    assert [prompt.group for prompt in world.learner.batches[0]] == [0, 2, 3, 4]
    entry = world.ledger.entries()[1]
    assert (entry.attempts, entry.outcome, entry.reason) == (3, SET_ASIDE, "replica died")
    assert world.loop.set_aside == 1
    assert world.observer.steps[0][3]["prompts/set_aside"] == 1


def test_a_retry_keeps_the_progress_of_its_admission():
    world = World(fault=fails(1, attempts=1)).run(1)
    assert len({p.progress for p in world.sampler.asked if p.group == 1}) == 1


def test_an_answer_to_an_older_attempt_is_refused():
    world = World(fault=fails(1, attempts=1))
    sample = world.sampler.sample

    async def late(prompt: Prompt):
        group = await sample(prompt)
        if prompt.group == 1 and prompt.attempt == 1:
            assert isinstance(group, Group)
            return replace(group, prompt=replace(prompt, attempt=0))
        return group

    world.sampler.sample = late
    world.run(1)
    assert (1, 2) in [(p.group, p.attempt) for p in world.learner.batches[0]]
    assert world.ledger.entries()[1].reason == "an answer to attempt 0 came"


def test_rollouts_of_other_weights_are_refused():
    world = World(attempts=2)
    load = world.weights.load

    async def forgets(version: Version):
        return {} if version == Version(0, 1) else await load(version)

    world.weights.load = forgets
    with pytest.raises(RuntimeError, match=r"sampled by version 0\.0; 0\.1 to 0\.1 were served"):
        world.run(2)
    assert len(world.learner.batches) == 1


def test_a_failed_scorer_costs_one_rollout():
    world = World(bad=lambda group, i: group.prompt.group == 2 and i == 1).run(1)
    *_, metrics = world.observer.steps[0]
    assert metrics["groups/failures"] == 1
    assert [p.attempt for p in world.learner.batches[0]] == [0, 0, 0, 0]


def test_scoring_never_makes_rollouts_wait():
    """Scorers that answer nothing before the whole batch is sampled: if it waited for them, the
    loop would stand still."""
    world = World(groups=4)
    score = world.loop._stream._scorers.score

    async def slow(group: Group):
        while len(world.sampler.finished) % 4:
            await asyncio.sleep(0)
        return await score(group)

    world.loop._stream._scorers.score = slow
    world.run(2)
    assert [len(batch) for batch in world.learner.batches] == [4, 4]


def test_too_few_survivors_are_tried_again_and_say_why():
    world = World(bad=lambda group, i: group.prompt.group == 2 and i > 0, attempts=2).run(1)
    assert [p.group for p in world.learner.batches[0]] == [0, 1, 3, 4]
    assert world.ledger.entries()[2].reason == "1 of 3 rollouts survive: scorer died"


def test_survivors_keep_their_own_rewards_and_advantages():
    group = group_of(
        prompt(0), samples=3, failures=(Failure(0, 3, "no tokens", FailureKind.SERVICE),)
    )
    rewards = (reward(1.0), Failure(0, 1, "slow", FailureKind.SERVICE), reward(3.0))
    kept = scored(group, rewards, config.LoopConfig(), longest=8)
    assert not isinstance(kept, Failure)
    assert [rollout.sample for rollout in kept.group.rollouts_G] == [0, 2]
    assert [each.total for each in kept.rewards_G] == [1.0, 3.0]
    assert kept.advantages_G == pytest.approx((-0.70705678, 0.70705678), abs=1e-8)
    assert [failure.reason for failure in kept.group.failures] == ["no tokens", "slow"]


def test_a_group_whose_every_completion_failed_says_why():
    group = group_of(
        prompt(0), samples=0, failures=(Failure(0, 0, "engine died", FailureKind.SERVICE),)
    )
    failure = scored(group, (), config.LoopConfig(), longest=8)
    assert failure == Failure(
        0, None, "0 of 0 rollouts survive: engine died", FailureKind.COMPLETION
    )


def test_the_metrics_of_a_step():
    *_, metrics = World().run(1).observer.steps[0]
    assert metrics.keys() >= {
        "seconds/step",
        "seconds/rollout",
        "scoring/seconds",
        "scoring/tail_seconds",
        "seconds/learn",
        "seconds/sync",
        "sync/bytes",
        "sync/publish_seconds",
        "loss",
        "reward/total",
        "reward/ans_acc",
        "length/mean",
        "groups/zero_spread",
        "prompts/skipped",
        "prompts/set_aside",
        "stale/max",
    }
    assert metrics["reward/total"] == 1.0  # 0, 1, 2 in each group
    assert metrics["stale/max"] == 0
    assert all("/" in name or name in ("loss", "progress") for name in metrics)


def test_stop_finishes_the_running_step():
    world = World()
    world.observer.act = world.loop.stop
    world.run(5)
    assert world.loop.step == len(world.learner.batches) == 1
    assert world.sampler.version == Version(0, 1)


def test_it_goes_on_as_a_new_incarnation():
    first = World().run(2)
    second = World()
    second.loop.restore(first.loop.state())
    assert (second.loop.step, second.loop.version) == (2, Version(1, 2))
    second.run(3)
    assert second.weights.published == [Version(1, 2), Version(1, 3)]
    assert [step for step, *_ in second.observer.steps] == [3]


def test_no_steps_hand_over_the_weights_and_train_nothing():
    world = World().run(0)
    assert world.weights.published == [Version(0, 0)]
    assert world.learner.batches == []


def test_observers_are_told_what_was_trained():
    world = World(shuffle=lambda groups: groups[::-1]).run(1)
    assert [p.group for p in world.learner.batches[0]] == [3, 2, 1, 0]
    assert world.observer.steps[0][2] == [3, 2, 1, 0]


def test_skipped_media_are_counted():
    world = World(broken={"row-0", "row-5"}).run(2)
    *_, metrics = world.observer.steps[-1]
    assert metrics["prompts/skipped"] == world.ledger.counts()[SKIPPED] >= 2
    assert not {"row-0", "row-5"} & {p.row.id for batch in world.learner.batches for p in batch}


def test_all_media_broken_is_one_clear_error():
    world = World(rows=2, broken={"row-0", "row-1"})
    with pytest.raises(ValueError, match=r"2 rows .*data\.media"):
        world.run(1)


def test_a_pool_that_answers_nothing_ends_the_run_with_its_reason():
    world = World(
        fault=lambda prompt: Failure(prompt.group, None, "no replica is left", FailureKind.SERVICE)
    )
    with pytest.raises(RuntimeError, match=r"8 prompts were set aside.*no replica is left"):
        world.run(1)
    assert world.learner.batches == []


def test_an_error_of_a_part_is_raised_as_itself():
    def broken(_: Prompt):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        World(fault=broken).run(1)


@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0, 0.4),
    rows=st.integers(2, 12),
    groups=st.integers(1, 6),
    attempts=st.integers(1, 3),
)
def test_every_admitted_prompt_is_trained_once_or_set_aside(seed, share, rows, groups, attempts):
    luck = Random(seed)

    def fault(prompt: Prompt) -> Failure | None:
        return (
            Failure(prompt.group, None, "luck", FailureKind.SERVICE)
            if luck.random() < share
            else None
        )

    world = World(
        rows=rows,
        groups=groups,
        attempts=attempts,
        fault=fault,
        bad=lambda *_: luck.random() < share / 4,
        broken={"row-1"} if seed % 2 else set(),
        seed=seed,
    )
    with suppress(RuntimeError):  # more were set aside than trained: allowed, and held below
        world.run(4)
    whole = world.loop.step == 4
    assert whole or world.loop.set_aside >= max(groups, 8)
    trained = Counter(p.group for batch in world.learner.batches for p in batch)
    assert set(trained.values()) <= {1}
    assert [len(batch) for batch in world.learner.batches] == [groups] * world.loop.step
    entries = {entry.group: entry for entry in world.ledger.entries()}
    assert sorted(entries) == list(range(len(entries)))
    for group, entry in entries.items():
        assert (entry.outcome == TRAINED) == (group in trained)
        assert entry.outcome in (TRAINED, SET_ASIDE, SKIPPED) or not whole
        assert entry.attempts <= attempts
        assert entry.outcome in (TRAINED, ADMITTED) or entry.reason
    asked = {(p.group, p.attempt) for p in world.sampler.asked}
    assert len(asked) == len(world.sampler.asked)
    assert sum(entry.attempts for entry in entries.values()) == len(asked) or not whole


def test_a_group_that_the_learner_refuses_is_set_aside_not_trained():
    world = World()
    world.learner.refuses = {2}
    world.run(1)
    by_group = {entry.group: entry for entry in world.ledger.entries()}
    assert [by_group[group].outcome for group in range(4)] == [
        "trained",
        "trained",
        "set aside",
        "trained",
    ]
    assert by_group[2].reason == "refused by the learner: frames differ"
    assert world.loop.set_aside == 1


def test_a_learner_that_refuses_everything_ends_the_run():
    world = World()
    world.learner.refuses = set(range(1000))
    with pytest.raises(RuntimeError, match="set aside and fewer trained; the last: refused by"):
        world.run(50)
    assert world.loop.trained == 0


def test_a_restored_loop_is_a_new_incarnation():
    first = World().run(1)
    second = World()
    second.loop.restore(first.loop.state())
    assert (second.loop.step, second.loop.version) == (1, Version(1, 1))
