"""Profile `strict`: the perfect teacher and natural names are paid, blind answers less."""

from pathlib import Path
from random import Random

import pytest
from spatial_row import CAT, DOG, SECOND_DOG, TRUTH, claim

from o3rl.config import Profile, RewardsConfig
from o3rl.data.media_paths import MediaRoots
from o3rl.data.stgr import row_of
from o3rl.synth.questions import PERFECT, ask, row
from o3rl.synth.world import random_picture, random_scene, split_combinations
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.prompts import target
from o3rl.types import FramePlan, KeyFrame, Reward, Task, Truth
from rewards.parts.rouge import unicode_rouge
from rewards.scorer import Scorer

SECONDS = tuple(float(second) for second in range(15))
SIZE = (1000, 1000)


def scored(
    thought: str,
    answer: str = "a dog",
    *,
    task: Task = Task.TEMPORAL_SPATIAL,
    truth: Truth = TRUTH,
    profile: Profile = Profile.strict,
    progress: float = 1.0,
    seen: tuple[float, ...] = SECONDS,
) -> Reward:
    text = f"<think>{thought}</think><answer>{answer}</answer>"
    return Scorer(RewardsConfig(profile=profile)).score(
        task, text, truth=truth, progress=progress, frame_size=(100, 100), seen=seen
    )


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("task", Task)
def test_the_perfect_teacher_earns_all_that_there_is(task, profile):
    """ROUGE of a word against itself is not 1, so that what there is of it is that."""
    rng, scorer = Random(f"{task}"), Scorer(RewardsConfig(profile=profile))
    combinations, _ = split_combinations()
    earned = there = 0.0
    for number in range(60):
        still = task is Task.VISUAL
        scene = random_picture(rng, combinations) if still else random_scene(rng, combinations)
        asked = ask(rng, scene, wanted="shape" if still else None)
        record = row(rng, asked, task, name=f"{number}", media="v", teacher=PERFECT)
        right = row_of(record, MediaRoots({}))
        plan = FramePlan(tuple(range(len(asked.times))), asked.times, SIZE, scene.duration)
        reward = scorer.score(
            task,
            target(right, plan, convention=ABSOLUTE),
            truth=right.truth,
            progress=1.0,
            frame_size=SIZE,
            seen=plan.times_F,
        )
        earned += reward.total
        parts = {
            Task.MCQ: 2.0,
            Task.FREE_FORM: 1.0,
            Task.TEMPORAL_SPATIAL: 3.0,
            Task.TEMPORAL: 3.0,
            Task.TEMPORAL_MCQ: 4.0,
            Task.VISUAL: 3.0,
        }[task]
        there += parts + (
            unicode_rouge(right.truth.text, right.truth.text)
            if task in (Task.FREE_FORM, Task.TEMPORAL_SPATIAL)
            else 0.0
        )
    # As published, a name of two words ("red object") is none in the format of visual QA.
    least = 0.9 if (task, profile) == (Task.VISUAL, Profile.released) else 0.98
    assert earned >= least * there


SYNONYMS = [
    ("soccer ball", "ball", 1),
    ("ball", "soccer ball", 1),
    ("green object", "green square", 1),
    ("the man", "man in red shirt", 1),
    ("the dogs", "dog", 1),
    ("young boy on a bike", "boy", 1),
    ("blue car", "red car", 0.75),  # one of two words
    ("player", "man in red shirt", 0.5),
    ("automobile", "car", 0.5),
    ("in", "man in red shirt", 0.5),
    ("thing", "ball", 0.5),
    ("red blue green man dog cat car ball", "red car", 0.5 + 0.5 * 2 / 5),
    ("", "ball", 0),
]


@pytest.mark.parametrize(("said", "true", "worth"), SYNONYMS)
def test_a_right_box_at_the_right_time_under_another_name(said, true, worth):
    truth = Truth("x", key_frames=(KeyFrame(5.0, ((true, ((0.1, 0.1, 0.3, 0.3),)),)),))
    part = scored(claim(said, 5.0, DOG), truth=truth).parts["thk_spatial"]
    assert part == pytest.approx(worth)


TEMPORAL = Truth("[2, 12]", interval=(2.0, 12.0))
WHOLE = "From <t>0</t>s to <t>14</t>s"
MIDDLE = claim("dog", 7.0, "[0,0,100,100]")
UNICORN = claim("unicorn", 9999, DOG)
LETTER = Truth("A", letter="A")
IMAGE = Truth("<box>[10,10,30,30]</box>", box=(0.1, 0.1, 0.3, 0.3))
ONE = Truth("a dog", key_frames=(KeyFrame(8.0, (("dog", ((0.2, 0.2, 0.8, 0.8),)),)),))
EVERY_BOX = claim("dog", 8.0, *[f"[{x},{y},{x + 60},{y + 60}]" for x in range(0, 40, 4)
                                for y in range(0, 40, 4)])  # fmt: skip
HACKS = {  # task, thought, answer, truth, progress
    "one time twice, the whole clip": (
        Task.TEMPORAL, "<t>7</t>s <t>7</t>s", WHOLE, TEMPORAL, 1.0),
    "no thought, a box in the answer": (
        Task.VISUAL, "", "<obj>dog</obj><box>[10,10,30,30]</box>", IMAGE, 1.0),
    "a unicorn at 9999 s": (Task.MCQ, UNICORN, "A", LETTER, 1.0),
    "middle and whole frame, σ = 4": (Task.TEMPORAL_SPATIAL, MIDDLE, "?", ONE, 0.0),
    "a hundred boxes": (Task.TEMPORAL_SPATIAL, EVERY_BOX, "?", ONE, 1.0),
}  # fmt: skip
# Paper: 1 + 10/14 + 1, 1 + 1 (the answer is right), 1 + 1, 1 + exp(−1/32) + 0.36, 1 + 1 + 1.
# Strict: ½ + 10/14 + 2·e/(1 + e) of e = exp(−12.5), ½ + 1, ½ + 1, …, ½ + 1 + 2/101.
PAPER = [1 + 10 / 14 + 1, 2.0, 2.0, 1 + 0.969233 + 0.36, 3.0]


def worth(hack: str, profile: Profile) -> float:
    task, thought, answer, truth, progress = HACKS[hack]
    given = scored(thought, answer, task=task, truth=truth, profile=profile, progress=progress)
    return given.total


def test_what_hacks_pay():
    paper = [worth(hack, Profile.paper) for hack in HACKS]
    strict = [worth(hack, Profile.strict) for hack in HACKS]
    assert paper == pytest.approx(PAPER, abs=1e-6)
    known = [0.5 + 10 / 14, 1.5, 1.5, None, 0.5 + 1 + 2 / 101]
    for got, value in zip(strict, known, strict=True):
        assert value is None or got == pytest.approx(value, abs=2e-5)
    # σ = 4: the middle earns what a random frame does not, and the whole frame nothing.
    assert 1.0 < strict[3] < 2.0


def test_the_table_of_hacks_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    for hack in HACKS:
        row = f"| {hack} | {worth(hack, Profile.paper):.2f} | {worth(hack, Profile.strict):.2f} |"
        assert row in page


def test_all_evidence_is_paid_whole_where_frames_are_known():
    honest = claim("dog", 5.0, DOG) + claim("cat", 5.0, CAT) + claim("dog", 12.5, SECOND_DOG)
    assert scored(honest).total == pytest.approx(4.0)


def test_a_time_beyond_the_frames_seen_is_no_evidence():
    for time, value in ((14.4, 1.0), (14.6, 0.5), (9999, 0.5), (0.0, 1.0)):
        assert scored(claim("dog", time, DOG)).parts["format"] == value
    assert scored(claim("dog", 9999, DOG), seen=()).parts["format"] == 1.0
