"""VideoMMMU: what is learnt from 300 lectures, in three tracks of 300 questions.

The published reader of letters knows full stops, colons, round brackets and blanks, and takes the
last; a reply that is empty leaves its denominator. Open questions are met by a number or a piece of
text. `ours` reads letters as everywhere and wants whole words.
"""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from o3rl.benchmarks import choice, runner
from o3rl.benchmarks.reading import answer_part
from o3rl.benchmarks.runner import Row, Scores, Scoring

TRACKS = ("perception", "comprehension", "adaptation")
CHOICE, OPEN = "multiple-choice", "open"
DROPPED, NOTHING = "API Error", "No Answere Found"  # as published
RELEASED_LETTERS = "ABCDEFGHIJ"
DISCIPLINES = {
    "Art": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Medicine": ("Basic_Medical_Science", "Clinical_Medicine",
                 "Diagnostics_and_Laboratory_Medicine", "Pharmacy", "Public_Health"),
    "Humanities": ("History", "Literature", "Sociology", "Psychology"),
    "Engineering": ("Agriculture", "Architecture_and_Engineering", "Computer_Science",
                    "Electronics", "Energy_and_Power", "Materials", "Mechanical_Engineering"),
}  # fmt: skip
GROUPS = ("track", "discipline", "subject")

_LEARN = "You should watch and learn the video content. Then apply what you learned to answer the "
_PICTURE = " question. The image for this question is at the end of the video.\n"
_QUIZ = "\nPlease ignore the Quiz question in last frame of the video."
_THINK = f"\n{runner.THINK}{runner.EVIDENCE} In the answer part, respond with only the "
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ", "are ",
         "in total ", "total ", "identify ", "recognize ", "calculated as ", "counted as ",
         "measured as ", "observed as ", "concluded as ", "found to be ", "equals ",
         "determined to be ", "number of ", "value is ", "adds up to ", "have ",
         "has ")  # fmt: skip
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_WHOLE = re.compile(r"-?(?<![\d.,])(?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d++)?+(?:[eE][+-]?\d++)?+")


def read_rows(path: Path) -> list[Row]:
    """A JSON list, or the folder of the published `{track}_video.json`; each row gets its track.

    Perception and Comprehension have no `question_type` there; it is set. ValueError names the row.
    """
    if path.is_dir():
        files = [path / f"{track}_video.json" for track in TRACKS]
        rows = [
            row for file, track in zip(files, TRACKS, strict=True) for row in _track(file, track)
        ]
    else:
        rows = runner.read_list(path)
    return [_checked(row, f"{path}, row {number}") for number, row in enumerate(rows)]


def _track(path: Path, track: str) -> list[Row]:
    """Rows of `{Track: {"0": {…}, …}}`, or of a list."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        rows = next(iter(value.values())).values() if isinstance(value, dict) else value
        return [dict(row) | {"track": track} for row in rows]
    except (ValueError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"{path} holds no questions of VideoMMMU: {error}") from error


def _checked(row: Row, where: str) -> Row:
    missing = [key for key in ("id", "question", "answer") if key not in row]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing; it must be one of VideoMMMU")
    kind = CHOICE if row.get("options") else OPEN
    said = row.get("question_type", kind)
    if row.get("track") in TRACKS[:2] and (said, kind) != (CHOICE, CHOICE):
        raise ValueError(f"{where}: question_type is {said!r}; it must be {CHOICE!r} with options")
    return row | {"question_type": said}


def subject_of(identity: str) -> str:
    """`Energy_and_Power` of `validation_Energy_and_Power_5`."""
    return "_".join(identity.split("_")[1:-1])


def calls(row: Row, think: bool) -> tuple[runner.Call, ...]:
    """One question; Adaptation shows its picture after the video."""
    options = f"\n{choice.listed_options(row['options'])}" if row.get("options") else ""
    picture, text = "", f"{row['question']}{options}"
    if row.get("track") == "adaptation":
        kind = "multi-choice" if options else "open-ended"
        text, picture = f"{_LEARN}following {kind}{_PICTURE}{text}", str(row.get("image") or "")
    else:
        text += _QUIZ
    if think:
        text += f"{_THINK}{'letter of the correct option' if options else 'final answer'}."
    return (runner.Call("response", text, picture=picture),)


def score(records: Sequence[Row], scoring: Scoring) -> Scores:
    """Accuracies of choice, open and all questions, over all or those that the reader keeps."""
    replies = choice.asked([_grouped(each) for each in records])
    rows = [_scored(reply, scoring) for reply in replies]
    kinds = {
        "choice": [row for row, reply in zip(rows, replies, strict=True) if reply.options],
        "open": [row for row, reply in zip(rows, replies, strict=True) if not reply.options],
        "all": rows,
    }
    figures: dict[str, Any] = {"rows": len(rows), "accuracy": choice.accuracy(_kept(rows))}
    if scoring.by == "ours":
        four = [r for r, reply in zip(rows, replies, strict=True) if len(reply.options) == 4]
        figures["accuracy_four_options"] = choice.accuracy(four)
    for name, each in kinds.items():
        kept = _kept(each)
        figures[name] = {
            "accuracy_5_digits": round(choice.accuracy(kept), 5),
            "accuracy": choice.accuracy(kept),
            "rows": len(each),
            "in_denominator": len(kept),
        }
    kept = [(reply, row) for reply, row in zip(replies, rows, strict=True) if row["kept"]]
    groups = choice.by_group([reply for reply, _ in kept], [row for _, row in kept], GROUPS)
    return Scores(figures | groups, rows)


def delta_knowledge(adaptation: float, question_only: float) -> float:
    """Δknowledge in per cent: what of the room above a question-only run the video filled."""
    return (adaptation - question_only) / (100 - question_only) * 100


def _kept(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["kept"]]


def _grouped(stored: Row) -> Row:
    subject = subject_of(str(stored.get("id", "")))
    fields = (name for name, subjects in DISCIPLINES.items() if subject in subjects)
    known = {"subject": subject or None, "discipline": next(fields, None)}
    choice = stored.get("question_type", CHOICE) != OPEN
    return {**known, **stored, "options": stored.get("options") if choice else ()}


def _scored(reply: choice.Asked, scoring: Scoring) -> Row:
    if not reply.options:
        return _scored_open(reply, scoring)
    if scoring.by == "ours":
        return choice.scored(reply, choice.meant(reply)) | {"kept": True}
    if scoring.by == "open_o3":
        return choice.scored(reply, choice.released_letter(reply.response, RELEASED_LETTERS)) | {
            "kept": True
        }
    letter = official_letter(reply.response, reply.options)
    return choice.scored(reply, letter) | {"kept": letter != DROPPED}


def _scored_open(reply: choice.Asked, scoring: Scoring) -> Row:
    if scoring.by == "ours":
        said = answer_part(reply.response)
        correct, read = open_is_met(said, reply.answer), bool(said)
        return {"parsed": said, "correct": correct, "read": read, "kept": True}
    parsed = official_open(reply.response)
    if parsed is None:
        return {"parsed": DROPPED, "correct": False, "read": False, "kept": False}
    correct = official_open_is_met(parsed, reply.answer)
    listed = sorted(parsed, key=lambda each: (isinstance(each, str), str(each)))
    return {"parsed": listed, "correct": correct, "read": True, "kept": True}


def official_letter(text: str, options: Sequence[str]) -> str:
    """VideoMMMU's rule (MMMU's, changed): of several candidates of the first kind the last."""
    if text in (DROPPED, ""):
        return DROPPED
    padded, letters = choice.padded_reply(text), [letter for letter, _ in choice.lettered(options)]
    stops, colons, brackets, blanks = (
        [letter for letter in letters if mark.format(letter) in padded]
        for mark in ("{}.", "{}:", "({})", "{} ")
    )
    for found, mark in ((stops + colons, "{}." if stops else "{}:"), (brackets, "({})")):
        if found:
            return _last(found, [padded.rfind(mark.format(letter)) for letter in found])
    if blanks:
        return _last(blanks, [padded.rfind(f" {letter} ") for letter in blanks])
    if len(padded.split()) > 5:
        lowered = padded.lower()
        where = {x: lowered.rfind(option.lower()) for x, option in choice.lettered(options)}
        found = [letter for letter, at in where.items() if at >= 0]
        if found:
            return _last(found, [where[letter] for letter in found])
    return NOTHING


def _last(letters: Sequence[str], positions: Sequence[int]) -> str:
    return letters[max(range(len(letters)), key=positions.__getitem__)]


Normal = float | str


def official_open(text: str) -> set[Normal] | None:
    """What the published reader takes an open reply for: tails after key phrases, and numbers."""
    if text in (DROPPED, ""):
        return None
    text = text.strip().strip(".").lower()
    lines, tails = text.split("\n"), []
    for number, line in enumerate(lines):
        keys = (*_KEYS, "=") if number == len(lines) - 1 else _KEYS
        ends = [line.rpartition(key)[2].strip() for key in keys if key in line]
        shortest = _shortest(ends)
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            tails.append(shortest)
    tails = tails or [text]
    numbers = [number for tail in tails for each in _NUMBERS for number in each.findall(tail)]
    return {each for said in (*tails, *numbers) for each in _normal(said)}


def _shortest(ends: Sequence[str]) -> str:
    """As published an empty tail is forgotten when another follows it."""
    shortest = ""
    for end in ends:
        if not shortest or len(end) < len(shortest):
            shortest = end
    return shortest


def _normal(text: str) -> list[Normal]:
    """A number rounded to two digits, or small letters; one letter with a blank on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def official_open_is_met(said: set[Normal], answer: str) -> bool:
    """A number equals, or the true text stands somewhere in a text that was read."""
    truths = _normal(answer)
    return any(
        any(isinstance(truth, str) and truth in each for truth in truths)
        if isinstance(each, str)
        else each in truths
        for each in said
    )


def open_is_met(said: str, answer: str) -> bool:
    """Ours: the last number equals a true one to two digits, or the true text stands in it whole.

    A truth that is the text of a list holds several.
    """
    numbers = _WHOLE.findall(said)
    for truth in _truths(answer):
        normal = _normal(truth)[0]
        if isinstance(normal, float):
            if numbers and _normal(numbers[-1])[0] == normal:
                return True
        elif re.search(rf"(?<!\w){re.escape(truth.strip().lower())}(?!\w)", said.lower()):
            return True
    return False


def _truths(answer: str) -> list[str]:
    try:
        value = ast.literal_eval(answer) if answer.lstrip().startswith("[") else answer
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = answer
    return [str(each) for each in value] if isinstance(value, list) else [answer]


BENCHMARK = runner.Benchmark(
    name="VideoMMMU",
    size=900,
    sampling=runner.Sampling(frames=64, pixels=512 * 512, max_tokens=1024),
    read=read_rows,
    video=lambda row: f"{row['id']}.mp4",
    calls=calls,
    record=choice.record,
    score=score,
)
