"""Test-time voting: several samples of one question, weighed by the evidence that they cite.

The arithmetic only: which crops a thought asks for, what the relevance judge's digits are worth,
and who wins. `ours`: no votes is no answer, a tie goes to the letter with more votes, then to the
alphabet, and is told; sums are exact; a claim may have several boxes; a time outside the clip gives
no crop; the confidence is the mean over the evidence. `released`: as Open-o3 publishes it, with one
question for all crops of a sample and A where nothing was read.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from o3rl.benchmarks.choice import NA, letter_of, lettered, listed_options, tagged_letter
from o3rl.benchmarks.four_options import last_marked_letter
from o3rl.benchmarks.runner import Row, Scores, Scoring
from o3rl.benchmarks.video_mmmu import DROPPED, NOTHING, official_letter
from o3rl.text.boxes import numbers_of
from o3rl.text.grammar import raw_boxes, raw_claims, thought_of

RELEVANCE = {"2": Fraction(1), "1": Fraction(3, 5), "0": Fraction(1, 5)}
UNSURE = Fraction(1, 5)  # no crop, or no digit
MOST_CROPS = 10  # of a sample that the published code shows its judge

JUDGE_SYSTEM = "You are a helpful assistant. Only reply with a single digit: 0, 1, or 2."
_JUDGE = (
    "You will be given a video question and a set of cropped images extracted from the video.\n"
    "Score how related these images are to answering the question.\n\nScoring rules:\n"
    "2 = clearly relevant to answering the question\n1 = might be useful but uncertain\n"
    "0 = not relevant at all\n\nOnly output one of: 0, 1, or 2. No other text.\nQuestion: {}"
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One box that a thought cites: a name, pixels of the frame, seconds."""

    name: str
    box: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Clip:
    """The sampled frames of a clip: how many, their size in pixels, and how many a second."""

    count: int
    height: int
    width: int
    fps: float


Crop = tuple[int, int, int, int, int]  # number of the frame, then x1, y1, x2, y2 in whole pixels


@dataclass(frozen=True, slots=True)
class Vote:
    """Who won. `tied`: the sums did not decide it."""

    winner: str | None
    tally: dict[str, Fraction | float]
    tied: bool = False


def judge_question(question: str, options: Sequence[str]) -> str:
    """What the relevance judge is asked about the crops."""
    return _JUDGE.format(f"{question}\n{listed_options(options)}")


def relevance(reply: str) -> Fraction:
    """2, 1 or 0, and nothing beside it: 1, 0.6, 0.2; anything else 0.2."""
    return RELEVANCE.get(reply, UNSURE)


def evidence_of(thought: str) -> list[Evidence]:
    """Every box of every claim, as the rewards read them; what has no number is left out."""
    found = []
    for claim in raw_claims(thought):
        seconds = _float(claim.time)
        for box in raw_boxes(claim.boxes):
            numbers = numbers_of(box.numbers)
            if numbers and seconds is not None:
                found.append(Evidence(claim.name.strip(), tuple(numbers), seconds))
    return found


def released_evidence(thought: str) -> list[Evidence]:
    """As published: one box a claim, x2 >= x1 and y2 >= y1, seconds to two digits."""
    found = []
    for claim in raw_claims(thought):
        seconds = _float(claim.time)
        inner = claim.boxes.removeprefix("<box>").removesuffix("</box>")
        parts = inner.strip().replace(" ", "").replace("[", "").replace("]", "").split(",")
        box = tuple(number for part in parts if (number := _float(part)) is not None)
        if seconds is None or not len(box) == len(parts) == 4:
            continue
        if box[2] >= box[0] and box[3] >= box[1]:
            found.append(Evidence(claim.name.strip(), box, round(seconds, 2)))
    return found


def crop_of(evidence: Evidence, clip: Clip) -> Crop | None:
    """Cut to whole pixels within the frame; None outside of the clip or without area."""
    return _cut(evidence, clip, negative=False)


def released_crop(evidence: Evidence, clip: Clip) -> Crop | None:
    """As published: a negative time, or a negative right or lower edge, counts from the end."""
    return _cut(evidence, clip, negative=True)


def _cut(evidence: Evidence, clip: Clip, *, negative: bool) -> Crop | None:
    place = evidence.seconds * clip.fps
    if not math.isfinite(place) or not all(map(math.isfinite, evidence.box)):
        return None  # as published this stops the run
    frame = round(place)
    if frame < 0 and negative:
        frame += clip.count
    if not 0 <= frame < clip.count:
        return None
    x1, y1, x2, y2 = map(int, evidence.box)
    x1, y1, x2, y2 = max(0, x1), max(0, y1), min(clip.width, x2), min(clip.height, y2)
    if negative:
        x2 += clip.width if x2 < 0 else 0
        y2 += clip.height if y2 < 0 else 0
    return (frame, x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def elect(letters: Sequence[str | None], weights: Sequence[Fraction]) -> Vote:
    """Ours: the largest exact sum; of equal ones that with more votes, then the first letter."""
    votes = Counter(letter for letter in letters if letter is not None)
    tally: dict[str, Fraction | float] = dict.fromkeys(sorted(votes), Fraction(0))
    for letter, weight in zip(letters, weights, strict=True):
        if letter is not None:
            tally[letter] += weight
    if not tally:
        return Vote(None, {})
    winner = min(tally, key=lambda letter: (-tally[letter], -votes[letter], letter))
    return Vote(winner, tally, sum(each == tally[winner] for each in tally.values()) > 1)


def first_read(letters: Sequence[str | None]) -> Vote:
    """The first sample that could be read decides."""
    return Vote(next((letter for letter in letters if letter is not None), None), {})


def released_elect(letters: Sequence[str], weights: Sequence[float], allowed: str) -> Vote:
    """As published: floating sums, the first letter of equal ones, and of none."""
    tally: dict[str, Fraction | float] = dict.fromkeys(allowed, 0)
    for letter, weight in zip(letters, weights, strict=True):
        if letter != NA:
            tally[letter] += weight
    winner = max(tally, key=lambda letter: tally[letter])
    return Vote(winner, tally, sum(each == tally[winner] for each in tally.values()) > 1)


def score(records: Sequence[Row], scoring: Scoring) -> Scores:
    """Votes of stored samples, with the relevance judge's replies in the order they were asked."""
    count = _ours if scoring.by == "ours" else _released
    rows = []
    for number, stored in enumerate(records):
        try:
            rows.append(count(stored))
        except KeyError as error:
            raise ValueError(f"reply {number} has no {error}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"reply {number} has a value of another kind: {error}") from error
    right = sum(row["correct"] for row in rows)
    share = right / len(rows) if rows else 0.0
    return Scores(
        {"rows": len(rows), "accuracy": share, "tied": sum(r["tied"] for r in rows)}, rows
    )


def _ours(stored: Row) -> Row:
    clip, replies = Clip(**stored["frames"]), iter(stored["judge_replies"])
    letters, weights, said = [], [], []
    for response in stored["responses"]:
        cited = evidence_of(thought_of(response) or "")
        letters.append(letter_of(response, stored["options"]))
        crops = [crop for each in cited if (crop := crop_of(each, clip))]
        said.append((cited, crops))
        weights.append(_confidence(stored, len(crops), replies))
    first = stored["vote"].startswith("first")
    vote = first_read(letters) if first else elect(letters, weights)
    return _row(stored, [letter or NA for letter in letters], weights, said, vote)


def _confidence(stored: Row, crops: int, replies: Any) -> Fraction:
    """Of one chain: the mean over its evidence, one reply for each crop."""
    if not stored["vote"].startswith("confidence"):
        return Fraction(1)
    each = [relevance(next(replies, "")) for _ in range(crops)]
    return sum(each, Fraction(0)) / len(each) if each else UNSURE


def _released(stored: Row) -> Row:
    clip, replies = Clip(**stored["frames"]), iter(stored["judge_replies"])
    allowed = "ABCDEFGHIJ" if stored["benchmark"] == "video_mmmu" else "ABCD"
    confident = stored["vote"].startswith("confidence")
    letters, weights, said = [], [], []
    for response in stored["responses"]:
        if not stored["think"]:
            letters.append(_unthought(stored, response, allowed))
            weights.append(0.0 if letters[-1] == NA else 1.0)
            said.append(([], []))
            continue
        letters.append(tagged_letter(response, allowed))
        thought = thought_of(response)
        read = letters[-1] != NA and thought is not None
        cited = released_evidence((thought or "").strip()) if read and confident else []
        crops = [crop for each in cited if (crop := released_crop(each, clip))]
        asked = 0 < len(crops) <= MOST_CROPS
        weight = relevance(next(replies, "")) if asked else UNSURE if confident else Fraction(1)
        weights.append(float(weight) if read else 0)
        said.append((cited, crops))
    return _row(stored, letters, weights, said, released_elect(letters, weights, allowed))


def _unthought(stored: Row, response: str, allowed: str) -> str:
    """The published readers without thinking; WorldSense's draws with a fixed seed, always A."""
    if stored["benchmark"] == "video_mmmu":
        letter = official_letter(response, stored["options"])
        return NA if letter in (DROPPED, NOTHING) or letter not in allowed else letter
    if stored["benchmark"] == "video_mme":
        options = [f"{letter}. {text}" for letter, text in lettered(stored["options"])]
        return last_marked_letter(response, allowed, options)
    letter = last_marked_letter(response, allowed)
    return "A" if letter == NA and response not in (DROPPED, "") else letter


def _row(
    stored: Row,
    letters: Sequence[str],
    weights: Sequence[Fraction | float],
    said: Sequence[tuple[list[Evidence], list[Crop]]],
    vote: Vote,
) -> Row:
    judged = [
        len(crops) if stored["vote"].startswith("confidence") and len(crops) <= MOST_CROPS else 0
        for _, crops in said
    ]
    return {
        "evidence": [[[e.name, list(e.box), e.seconds] for e in cited] for cited, _ in said],
        "crops": [[list(crop) for crop in crops] for _, crops in said],
        "images_judged": judged,
        "letters": list(letters),
        "weights": [float(weight) for weight in weights],
        "tally": {letter: float(weight) for letter, weight in vote.tally.items()},
        "final": vote.winner,
        "tied": vote.tied,
        "correct": vote.winner == stored["answer"],
        "read": vote.winner is not None,
    }


def _float(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None
