"""Video-MME and WorldSense: four options, no sound, and one published reader.

That reader drops known phrases and takes the first capital A to D, so that `Based on …, C` is B.
Video-MME then leaves unread replies out of its accuracy; WorldSense counts them as wrong.
"""

import ast
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from o3rl.benchmarks import choice, runner
from o3rl.benchmarks.runner import Row, Scores, Scoring

LETTERS = "ABCD"
UNREAD, WRONG = "", "Z"  # what the readers of the two say where they read nothing
GROUPS = ("duration", "domain", "sub_category", "task_type", "task_domain", "audio_class")
SAMPLING = runner.Sampling(frames=64, pixels=512 * 512, max_tokens=8192)

_LEAD = ("The best answer is", "The correct answer is", "The answer is", "The answer",
         "The best option isThe correct option is", "Best answer:Best option:", "Answer:",
         "Option:")  # fmt: skip
_LETTER_ONLY = "Respond with only the letter (A, B, C, or D) of the correct option."
_SELECT = "Select the best answer to the following multiple-choice question based on the video. "
_THINK = (
    "Select the best answer to the multiple-choice question based on the video. "
    f"{runner.THINK}{runner.EVIDENCE} The reasoning process MUST NOT be longer than 100 words. "
    "In the answer part, respond with only the letter (A, B, C, or D) of the correct option."
)
_WATCH = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, "
    "select the best option that accurately addresses the question."
)
_SILENT = (
    "\nThese are the frames of a video. Audio transcripts of the video:\n"
    "This video does not have audio transcripts. \n"
)


def read_video_mme(path: Path) -> list[Row]:
    """Questions of Video-MME: Parquet, a JSON list of questions, or of videos with `questions`."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return _checked(pyarrow.parquet.read_table(path).to_pylist(), path)
    return _checked(flattened(runner.read_list(path)), path)


def read_world_sense(path: Path) -> list[Row]:
    """Questions of `WorldSense.tsv`, or a JSON list of them; lists stored as text become lists."""
    if path.suffix == ".json":
        return _checked(runner.read_list(path), path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows: list[Row] = list(csv.DictReader(file, delimiter="\t"))
    for number, row in enumerate(rows):
        for key in ("candidates", "audio_class"):
            row[key] = _list_of(row.get(key) or "[]", f"{path}, row {number}, {key}")
        row["options"] = row.pop("candidates")
    return _checked(rows, path)


def flattened(records: Sequence[Row]) -> list[Row]:
    """Questions of videos (`questions` in each, as in Video-MME's results), or as they are."""
    if not any("questions" in each for each in records):
        return list(records)
    return [
        {key: value for key, value in video.items() if key != "questions"} | question
        for video in records
        for question in video["questions"]
    ]


def _list_of(text: str, where: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, list):
        raise ValueError(f"{where}: {text!r:.80} is no list as text")
    return [str(each) for each in value]


def _checked(rows: list[Row], path: Path) -> list[Row]:
    for number, row in enumerate(rows):
        options, answer = row.get("options"), row.get("answer")
        if not isinstance(options, list) or len(options) != 4 or answer not in tuple(LETTERS):
            raise ValueError(
                f"{path}, row {number}: a question has four options and a letter as answer, not "
                f"{options!r:.80} and {answer!r:.20}"
            )
        if "question" not in row:
            raise ValueError(f"{path}, row {number}: there is no question")
    return rows


def video_mme_calls(row: Row, think: bool) -> tuple[runner.Call, ...]:
    """The published question, or Open-o3's with thought and evidence."""
    question = f"{row['question']}\n{choice.listed_options(row['options'])}"
    if think:
        return (runner.Call("response", f"Question:{question}\n{_THINK}"),)
    return (runner.Call("response", f"{_SELECT}{_LETTER_ONLY}\n{question}\nThe best answer is:"),)


def world_sense_calls(row: Row, think: bool) -> tuple[runner.Call, ...]:
    """Likewise; Open-o3's says that there is no transcript."""
    question = f"Question: {row['question']}\n{choice.listed_options(row['options'])}\n"
    if think:
        return (runner.Call("response", f"{_WATCH}\n{_SILENT}{question}\n{_THINK}"),)
    text = f"\nThese are the frames of a video. {_SELECT}{_LETTER_ONLY}\n{question}Answer: "
    return (runner.Call("response", text, _WATCH),)


def first_capital(text: str) -> str:
    """Video-MME's and WorldSense's reader: known phrases go, then the first A, B, C or D.

    Two missing commas fuse four of the phrases into two that nobody writes.
    """
    text = text.strip()
    for phrase in _LEAD:
        text = text.replace(phrase, "")
    match = re.search("[ABCD]", text)
    return match[0] if match else UNREAD


def last_marked_letter(text: str, letters: Sequence[str], contents: Sequence[str] = ()) -> str:
    """Open-o3's reader without thinking (WorldSense, Video-MME): the mark that begins last.

    `contents` are option texts, looked for where no letter is found (Video-MME). NA: nothing.
    """
    if text in ("API Error", ""):
        return choice.NA
    padded = choice.padded_reply(text)
    marks = ("{}.", "{}:", "({})", "{} ", "\n{}\n", " {}\n", "\n{} ", ": {}", ":{}", ":\n{}",
             "\n\n{}", "**{}**", "{{{}}}")  # fmt: skip
    found = [(padded.rfind(mark.format(x)), x) for mark in marks for x in letters]
    if all(at < 0 for at, _ in found) and len(padded.split()) > 5:
        lowered = padded.lower()
        found = [(lowered.rfind(c.lower()), x) for x, c in zip(letters, contents, strict=False)]
    at, letter = max(found, key=lambda pair: pair[0], default=(-1, ""))  # of equal ones the first
    return letter if at >= 0 else choice.NA


def score_video_mme(records: Sequence[Row], scoring: Scoring) -> Scores:
    """Accuracy over all, or as published over those that were read; by length, domain and type."""
    replies = choice.asked(flattened(records))
    return _score(replies, scoring, UNREAD)


def score_world_sense(records: Sequence[Row], scoring: Scoring) -> Scores:
    """Accuracy over all, by domain, type and length; published: what is unread is wrong."""
    return _score(choice.asked(records), scoring, WRONG)


def _score(replies: Sequence[choice.Asked], scoring: Scoring, unread: str) -> Scores:
    """Published readers know four letters: rows of other options are left out, and counted."""
    four = [reply for reply in replies if len(reply.options) == 4]
    if scoring.by == "ours":
        rows = [choice.scored(reply, choice.meant(reply)) for reply in replies]
        figures: dict[str, Any] = {"rows": len(rows), "accuracy": choice.accuracy(rows)}
        by_four = [row for row, reply in zip(rows, replies, strict=True) if len(reply.options) == 4]
        figures["accuracy_four_options"] = choice.accuracy(by_four)
        counted, of = rows, replies
    else:
        released = scoring.by == "open_o3"
        rows = [
            choice.scored(
                reply,
                choice.released_letter(reply.response, LETTERS)
                if released
                else first_capital(reply.response) or unread,
            )
            for reply in four
        ]
        counted = [row for row in rows if row["letter"] != UNREAD]
        of = [reply for reply, row in zip(four, rows, strict=True) if row["letter"] != UNREAD]
        figures = {"rows": len(rows), "accuracy": choice.accuracy(counted)}
        figures["other_options"] = len(replies) - len(four)
    answered = sum(row["read"] for row in rows)
    figures |= {"answered": answered, "accuracy_per_cent": 100 * figures["accuracy"]}
    return Scores(figures | choice.by_group(of, counted, GROUPS), rows)


VIDEO_MME = runner.Benchmark(
    name="Video-MME",
    size=2700,
    sampling=SAMPLING,
    read=read_video_mme,
    video=lambda row: f"{row.get('videoID') or row['video_id']}.mp4",
    calls=video_mme_calls,
    record=choice.record,
    score=score_video_mme,
)
WORLD_SENSE = runner.Benchmark(
    name="WorldSense",
    size=3172,
    sampling=SAMPLING,
    read=read_world_sense,
    video=lambda row: row.get("video_path") or f"{row['video']}.mp4",
    calls=world_sense_calls,
    record=choice.record,
    score=score_world_sense,
)
