"""What looking is worth: the best fixed answer, tuned on training rows, that has seen no frame.

It reads all of a prompt but the pictures: the task and the question's form, the frame lines, the
options. To each form belongs one `Fixed`, found by trying values one after the other under the
reward that is asked about. What a model earns above it, it owes to sight.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

from o3rl.text.boxes import BoxConvention
from o3rl.types import Box, FramePlan, Row, Task

LINES = tuple(step / 14 for step in range(15))  # of the way from the first to the last frame line
CENTRES = (0.2, 0.35, 0.5, 0.65, 0.8)
SIDES = (0.2, 0.35, 0.5, 0.75, 1.0)
WORDS = 12  # answers tried in a form, the most frequent
ROUNDS = 2

_OPTION = re.compile(r"\b([A-H])[.):]\s*(.+?)(?=\s+[A-H][.):]\s|\s*$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Case:
    """A row and the frames that a model would see of it."""

    row: Row
    plan: FramePlan


@dataclass(frozen=True, slots=True)
class Fixed:
    """One answer for all rows of a form; times as shares of the way along the frame lines.

    `words` are answers by how often they were right: the first is given, and of options the one
    that comes first; `letter` is given instead where it is not empty.
    """

    start: float = 0.5
    end: float = 0.5
    cited: float = 0.5
    box: Box = (0.25, 0.25, 0.75, 0.75)
    words: tuple[str, ...] = ()
    letter: str = ""


Score = Callable[[Case, str], float]
"""The reward of a response to a case, without its format part."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The best fixed answer by task and question's form; of forms never met, that of the task."""

    by_form: Mapping[tuple[Task, str], Fixed]
    convention: BoxConvention

    def text(self, case: Case) -> str:
        """The response to a case. Raises ValueError for a task that it was not tuned on."""
        task = case.row.task
        fixed = self.by_form.get((task, form(case.row))) or self.by_form.get((task, ""))
        if fixed is None:
            raise ValueError(f"no constant answer for {task}: there was no such row to tune on")
        return write(fixed, case, self.convention)


def tune(cases: Sequence[Case], score: Score, *, convention: BoxConvention) -> Constant:
    """The constant that earns most on `cases`, which are rows of training."""
    groups: dict[tuple[Task, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.row.task, form(case.row)), []).append(case)
        groups.setdefault((case.row.task, ""), []).append(case)
    found = {key: _best(group, score, convention) for key, group in groups.items()}
    return Constant(found, convention)


def form(row: Row) -> str:
    """The form of a question: its first two words. `What colour` is the car?"""
    return " ".join(row.question.split()[:2])


def write(fixed: Fixed, case: Case, convention: BoxConvention) -> str:
    """A response with thought and answer in the form that the task asks for."""
    plan = case.plan
    cited = f"<t>{_time(plan, fixed.cited):.1f}</t>s"
    box = f"<obj>{_name(case.row)}</obj><box>{convention.write(fixed.box, plan.size)}</box>"
    when = f"From <t>{_time(plan, fixed.start):.1f}</t>s to <t>{_time(plan, fixed.end):.1f}</t>s"
    word = fixed.words[0] if fixed.words else ""
    thought, answer = {
        Task.MCQ: (".", _letter(fixed, case.row)),
        Task.FREE_FORM: (".", word),
        Task.TEMPORAL_SPATIAL: (f"{box}at{cited}", word),
        Task.TEMPORAL: (f"{cited} {cited}", when),
        Task.TEMPORAL_MCQ: (
            f"{cited} {cited}",
            f"{when}.\nCorrect Option: {_letter(fixed, case.row)}",
        ),
        Task.VISUAL: (box, box),
    }[case.row.task]
    return f"<think>{thought}</think>\n<answer>{answer}</answer>"


def _best(cases: list[Case], score: Score, convention: BoxConvention) -> Fixed:
    ranked = Counter(word for case in cases if (word := _right(case.row)))
    words = tuple(word for word, _ in ranked.most_common())
    best = Fixed(words=words)

    def worth(fixed: Fixed) -> float:
        return sum(score(case, write(fixed, case, convention)) for case in cases)

    for _ in range(ROUNDS):
        for choices in _choices(cases[0].row.task, words):
            best = max((best, *(replace(best, **choice) for choice in choices)), key=worth)
    return best


def _choices(task: Task, words: tuple[str, ...]) -> Iterator[Iterable[dict[str, object]]]:
    """The values that are tried together, one thing after the other."""
    if task in (Task.TEMPORAL, Task.TEMPORAL_MCQ):
        spans = combinations_with_replacement(LINES, 2)
        yield [{"start": start, "end": end} for start, end in spans]
    if task in (Task.TEMPORAL, Task.TEMPORAL_MCQ, Task.TEMPORAL_SPATIAL):
        yield [{"cited": share} for share in LINES]
    if task in (Task.TEMPORAL_SPATIAL, Task.VISUAL):
        yield [{"box": box} for box in _boxes()]
    if task in (Task.MCQ, Task.TEMPORAL_MCQ):
        yield [{"letter": letter} for letter in ("", *"ABCDEFGH")]
    if task in (Task.FREE_FORM, Task.TEMPORAL_SPATIAL):
        yield [{"words": (word,)} for word in words[:WORDS]]


def _boxes() -> Iterator[Box]:
    for side in SIDES:
        for x in CENTRES:
            for y in CENTRES:
                yield (
                    max(0.0, x - side / 2),
                    max(0.0, y - side / 2),
                    min(1.0, x + side / 2),
                    min(1.0, y + side / 2),
                )


def _time(plan: FramePlan, share: float) -> float:
    """Seconds, between two frame lines where the share falls there."""
    at = share * (len(plan.times_F) - 1)
    before = int(at)
    after = min(before + 1, len(plan.times_F) - 1)
    return plan.times_F[before] + (at - before) * (plan.times_F[after] - plan.times_F[before])


def _right(row: Row) -> str:
    """The words of the right answer; of the right option where there are options."""
    if row.truth.letter is None:
        return row.truth.text
    return dict(_OPTION.findall(row.question)).get(row.truth.letter, "")


def _letter(fixed: Fixed, row: Row) -> str:
    if fixed.letter:
        return fixed.letter
    by_word = {word.strip(): letter for letter, word in _OPTION.findall(row.question)}
    known = (by_word[word] for word in fixed.words if word in by_word)
    return next(known, "A")


def _name(row: Row) -> str:
    """A name for what is cited: the words that follow `the` in the question."""
    found = re.search(r"\bthe ([^?.,]+?)(?: (?:go|there|is|in|at)\b|[?.,]|$)", row.question)
    return found.group(1) if found else "object"
