"""V-STaR: what, when and where, asked in two chains of five calls.

Chain 1 goes what, when, where, chain 2 what, where, when; a later link is given the truth of the
one before, not the model's answer. What the replies are worth is said by `vstar_scores`.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from o3rl.benchmarks import vstar_scores as scores
from o3rl.benchmarks.runner import EVIDENCE, THINK, Benchmark, Call, Row, Sampling, read_list
from o3rl.benchmarks.vstar_scores import CORNERS, check_row, length_of

SIZE = 2094
_NOT_IN_ANSWER = " Do not use <box>, <obj> and <t> in the answer part."
_FROM_TO = "must follow the following format: `From <t>start_time</t>s to <t>end_time</t>s'"


def read_rows(path: Path) -> list[Row]:
    """The rows of `V_STaR_test.json`. ValueError names the row and the field that is not there."""
    rows = read_list(path)
    for number, row in enumerate(rows):
        check_row(row, f"{path}, row {number}")
    return rows


def calls(row: Row, think: bool) -> tuple[Call, ...]:
    """The five questions; `think` asks as Open-o3 does, with thought, answer and evidence."""
    boxes = [[box[key] for key in CORNERS] for box in row["bboxes"]]
    size = f" with a resolution of {row['width']}x{row['height']} (width x height)"
    given = (
        f"There are {len(boxes)} bounding boxes of the key object related to the question in the "
        f"video without knowing the time, which are:{boxes}. "
    )
    system = "You are a helpful assistant."
    return tuple(
        Call(name, text, system)
        for name, text in (
            (scores.WHAT, _what(row, think)),
            (scores.WHEN_1, _when(row, "", "", think)),
            (scores.WHERE_1, _where(row["spatial_question"], _in_range(row), think)),
            (scores.WHERE_2, _where(row["spatial_question_2"], _how_many(len(boxes)), think)),
            (scores.WHEN_2, _when(row, size, given, think)),
        )
    )


def _what(row: Row, think: bool) -> str:
    text = (
        f"Answer the question about the video: {row['question']} \n (If the answer is a person, "
        "you don't need to identify the person.)"
    )
    return text + (THINK + EVIDENCE + _NOT_IN_ANSWER if think else "")


def _when(row: Row, size: str, given: str, think: bool) -> str:
    head = (
        f"This video is {length_of(row)} seconds long{size}. Answer the question about the video: "
        f"{row['temporal_question']} \n {given}"
    )
    if think:
        return f"{head}{THINK} The answer {_FROM_TO}"
    return f"{head}Output the start and end moment timestamps."


def _where(question: str, task: tuple[str, str], think: bool) -> str:
    wanted, example = task
    head = (
        f"Please answer the question about the video: {question} with a series of bounding boxes "
        "in [x1, y1, x2, y2] format.\n"
    )
    if not think:
        return f"{head}{wanted[0].upper()}{wanted[1:]}\nExample output: {example}\n"
    return (
        f"{head}{THINK}\nIn the answer part, {wanted}\n"
        f"Example output of the answer part: {example}\n"
    )


def _in_range(row: Row) -> tuple[str, str]:
    """The whole seconds of the interval; the nearest ones where it has none."""
    start, end = row["timestamps"]
    seconds = list(range(math.ceil(start), math.floor(end) + 1)) or [math.floor(start)]
    return (
        f"for each whole second within the time range {seconds} provided (inclusive of the "
        "boundaries), output a series of bounding boxes of the object in JSON format. The keys "
        "should be the whole seconds (as strings), and the values should be the box in "
        "[x1, y1, x2, y2] format.",
        f'{{"{seconds[0]}": [x1, y1, x2, y2],...}}',
    )


def _how_many(count: int) -> tuple[str, str]:
    return (
        "for each whole second that may be related to the question, output a series of bounding "
        f"boxes of the object in JSON format. You only need to output {count} bbox(es). You need "
        "to determine which frame is related to the question, and you don't need to output the "
        "bbox for the frames not related to the question.\nThe keys should be the whole seconds "
        "(as strings), and the values should be the bounding box in [x0,y0,x1,y1] format.",
        f'{{"0": [x0,y0,x1,y1], "1":..., ..., "{count}":...}} (if the frames at 0~{count} second '
        "are related to the questions)",
    )


def record(row: Row, texts: Mapping[str, str], reason: str) -> Row:
    """A row as it is stored and scored."""
    return {"row": row, "texts": dict(texts), "judge_score": None, "reason": reason}


BENCHMARK = Benchmark(
    name="V-STaR",
    size=SIZE,
    sampling=Sampling(frames=16, pixels=0, max_tokens=2048, fps=1.0),
    read=read_rows,
    video=lambda row: f"{row['vid']}.mp4",
    calls=calls,
    record=record,
    score=scores.score,
)
