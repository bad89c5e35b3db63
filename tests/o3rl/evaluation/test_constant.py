"""The best fixed answer: worked out by hand, and against trying every value at once."""

import pytest

from o3rl.config import RewardsConfig
from o3rl.evaluation.constant import LINES, Case, Fixed, tune, write
from o3rl.text.boxes import ABSOLUTE
from o3rl.types import FramePlan, KeyFrame, Row, Task, Truth
from rewards.scorer import Scorer

SCORER = Scorer(RewardsConfig())
OPTIONS = "A. red B. blue C. green D. white"


def case(task: Task, question: str, truth: Truth, *, seconds: int = 14) -> Case:
    """A clip of a frame line every second."""
    times = tuple(float(second) for second in range(seconds + 1))
    plan = FramePlan(tuple(range(len(times))), times, (112, 112), float(seconds))
    return Case(Row("", task, "", question, "", truth), plan)


def score(case: Case, text: str) -> float:
    row, size = case.row, case.plan.size
    reward = SCORER.score(row.task, text, truth=row.truth, progress=1.0, frame_size=size)
    return reward.total - reward.parts["format"]


def earned(cases: list[Case], tested: list[Case] | None = None) -> list[float]:
    constant = tune(cases, score, convention=ABSOLUTE)
    return [score(each, constant.text(each)) for each in tested or cases]


def colour(letter: str, options: str = OPTIONS) -> Case:
    return case(Task.MCQ, f"What colour is the car? {options}", Truth(letter, letter=letter))


def test_of_options_the_word_counts_that_was_right_most_often():
    swapped = "A. blue B. red C. green D. white"
    assert earned([colour("A"), colour("B", swapped), colour("C")]) == [1, 1, 0]


def test_of_options_without_words_the_letter_counts():
    bare = [case(Task.MCQ, "Which one?", Truth(letter, letter=letter)) for letter in "BCBB"]
    assert earned(bare) == [1, 0, 1, 1]


def test_each_form_of_a_question_has_its_own_and_a_new_one_that_of_its_task():
    def asked(words: str, answer: str) -> Case:
        return case(Task.FREE_FORM, f"{words} is the car?", Truth(answer))

    known = [asked("What colour", "red"), *[asked("Which way", "left")] * 2]
    tested = [*known[:2], asked("How large", "left")]
    assert earned(known, tested) == pytest.approx([2 / 3] * 3)  # ROUGE-2 of one word is 0


def test_an_interval_that_is_always_the_same_is_found():
    truth = Truth("[4, 6]", interval=(4.0, 6.0))
    rows = [case(Task.TEMPORAL, "When is the car there?", truth)] * 2
    assert earned(rows) == [2.0, 2.0]  # tIoU 1, and the cited times within


def test_claims_go_where_and_when_most_evidence_is():
    box = (0.25, 0.25, 0.75, 0.75)

    def claim(time: float) -> Case:
        key = KeyFrame(time, (("car", (box,)),))
        question = "What does the car do?"
        return case(Task.TEMPORAL_SPATIAL, question, Truth("waits", key_frames=(key,)))

    # Word 2/3, point 1, spatial 1 where the time is right; elsewhere the word alone: 9 s away the
    # gate is shut and the point part is below e⁻⁴⁰.
    assert earned([claim(3), claim(3), claim(12)]) == pytest.approx([8 / 3, 8 / 3, 2 / 3])


def test_no_single_fixed_answer_earns_more():
    """Against all 120 intervals of the grid times all 15 citations at once."""
    intervals = [(1.0, 3.0), (2.0, 7.0), (9.0, 13.0), (2.5, 5.5)]
    question = "When is the car there?"
    rows = [case(Task.TEMPORAL, question, Truth("", interval=interval)) for interval in intervals]
    every = (
        Fixed(start=LINES[start], end=LINES[end], cited=cited)
        for start in range(len(LINES))
        for end in range(start, len(LINES))
        for cited in LINES
    )
    best = max(sum(score(row, write(fixed, row, ABSOLUTE)) for row in rows) for fixed in every)
    assert sum(earned(rows)) == pytest.approx(best)


def test_a_box_that_is_always_the_same_is_found():
    truth = Truth("", box=(0.25, 0.25, 0.75, 0.75))
    assert earned([case(Task.VISUAL, "Where is the car?", truth)]) == [2.0]


def test_a_task_that_was_not_tuned_on_is_refused():
    constant = tune([colour("A")], score, convention=ABSOLUTE)
    with pytest.raises(ValueError, match="no constant answer for visual QA"):
        constant.text(case(Task.VISUAL, "Where?", Truth("")))
