"""What an annotator says of a video, held to its schema and to the frames that it was shown.

Here boxes are shares of the frame and times those of frames; the annotator writes boxes in a unit
of its own and times as they were printed. Whether thought and evidence agree is asked here too.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from o3rl.text.boxes import numbers_of
from o3rl.text.control_tokens import inert
from o3rl.text.grammar import raw_boxes, raw_claims, time_mentions, unpaired
from o3rl.types import Box

SCALES = {"shares": 1.0, "thousandths": 1000.0, "pixels": 0.0}  # 0: by the frame's size
UNITS = {
    "shares": "shares of the frame from 0 to 1",
    "thousandths": "thousandths of the frame's width and height, from 0 to 1000",
    "pixels": "pixels of a frame of {} × {}",
}
SAME_TIME = 0.1  # seconds: times are printed with one decimal
SAME_EDGE = 0.01  # of the frame, between a box of the thought and that of the evidence
OUTSIDE = 0.01  # of the frame that a box may lie outside of it, and is cut

_TAGS = re.compile(r"</?(?:think|answer|obj|box|t)>")
_BOX = re.compile(r"<box>([^<]*)</box>")
_TIME = re.compile(r"<t>([^<]*)</t>")

Text = Annotated[str, Field(min_length=1, max_length=4000)]
Name = Annotated[str, Field(min_length=1, max_length=80)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Seen(_Strict):
    """One object of a key frame and where it is, xyxy."""

    name: Name
    box: Annotated[list[float], Field(min_length=4, max_length=4)]


class Moment(_Strict):
    """A key frame."""

    time: float
    objects: Annotated[list[Seen], Field(min_length=1, max_length=3)]


class Annotation(_Strict):
    """A question that the evidence answers."""

    question: Text
    answer: Text
    key_frames: Annotated[list[Moment], Field(min_length=1, max_length=5)]
    thought: Annotated[str, Field(min_length=1, max_length=20_000)]

    def evidence(self) -> Iterator[tuple[float, Seen]]:
        """Each object with its time."""
        for moment in self.key_frames:
            for thing in moment.objects:
                yield moment.time, thing


class Rewrite(_Strict):
    """The thought alone; empty where the evidence does not carry the answer."""

    thought: Annotated[str, Field(max_length=20_000)]


class AnnotationError(ValueError):
    """An annotation of no use. `reason` can be counted; the text says what to mend."""

    def __init__(self, reason: str, words: str):
        super().__init__(words)
        self.reason = reason


def json_in(text: str) -> Any:
    """The JSON object in a reply, with or without a fence around it; None without one."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_annotation(
    said: object, *, times: Sequence[float], size: tuple[int, int], unit: str
) -> Annotation:
    """An annotation in shares and true times, from JSON that says it in `unit`.

    `times` and `size` (width, height) are of the frames that were shown. Raises AnnotationError.
    """
    try:
        raw = Annotation.model_validate(said)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"])) or "the object"
        raise AnnotationError("not of the schema", f"{where}: {found['msg']}") from None
    scale = (SCALES[unit], SCALES[unit]) if SCALES[unit] else size
    moments = [
        Moment(
            time=_nearest(moment.time, times),
            objects=[
                Seen(name=_name(thing.name), box=list(_box(thing.box, scale)))
                for thing in moment.objects
            ],
        )
        for moment in raw.key_frames
    ]
    moments.sort(key=lambda moment: moment.time)
    if len({moment.time for moment in moments}) < len(moments):
        raise AnnotationError("a key frame twice", "key_frames names a frame twice")
    for name in ("question", "answer"):
        if _TAGS.search(getattr(raw, name)):
            raise AnnotationError("tags where none belong", f"the {name} holds tags")
    if re.search(r"</?(?:think|answer)>", raw.thought):
        raise AnnotationError("tags where none belong", "the thought holds <think> or <answer>")
    return Annotation(
        question=inert(raw.question.strip()),
        answer=inert(raw.answer.strip()),
        key_frames=moments,
        thought=inert(plain_thought(raw.thought.strip(), scale)),
    )


def citation(time: float, thing: Seen) -> str:
    """As a thought cites it: the box in shares, the time as it is printed."""
    return f"<obj>{thing.name}</obj><box>{_written(thing.box)}</box>at<t>{time:.1f}</t>s"


def plain_thought(thought: str, scale: tuple[float, float] = (1.0, 1.0)) -> str:
    """The thought with its boxes, written in `scale`, as shares; what is no box stays as it is."""

    def share(match: re.Match[str]) -> str:
        numbers = numbers_of(match[1]) or ()
        try:
            return f"<box>{_written(_box(numbers, scale))}</box>"
        except AnnotationError:
            return match[0]

    return _BOX.sub(share, thought)


def disagreements(annotation: Annotation) -> list[str]:
    """Where thought and evidence do not match one to one in name, box and time; empty: they do."""
    thought, found = annotation.thought, []
    if unpaired(thought, ("obj", "box", "t")):
        return ["a tag is opened and not closed, or closed and not opened"]
    left = list(annotation.evidence())
    claims = list(raw_claims(thought))
    for claim in claims:
        boxes = [numbers_of(each.numbers) or () for each in raw_boxes(claim.boxes)]
        for box in boxes:
            same = next((each for each in left if _same(claim.name, claim.time, box, *each)), None)
            if same is None:
                found.append(
                    f"it cites {claim.name!r} at {claim.time} s in {list(box)}, which is no "
                    "evidence, or is cited twice"
                )
            else:
                left.remove(same)
    found += [f"it does not cite {citation(*each)}" for each in left]
    if thought.count("<box>") != sum(claim.boxes.count("<box>") for claim in claims):
        found.append("it has a box without name and time")
    if thought.count("<obj>") != len(claims):
        found.append("it has a name without box and time")
    times = [time for time, _ in annotation.evidence()]
    mentions = time_mentions(thought)
    if len(mentions) != thought.count("<t>"):
        found.append("it has a time that is no number of seconds")
    found += [
        f"it names {mention} s, which is no key frame's time"
        for mention in mentions
        if not any(_same_time(mention, time) for time in times)
    ]
    return found


def record_of(name: str, video: str, annotation: Annotation) -> dict[str, Any]:
    """The STGR record that SFT and RL read."""
    frames = list(enumerate(annotation.key_frames))
    items: dict[str, dict[str, list[list[float]]]] = {}
    for number, moment in frames:
        named = items.setdefault(str(number), {})
        for thing in moment.objects:
            named.setdefault(thing.name, []).append(thing.box)
    return {
        "id": name,
        "task": "temporal-spatial free-form QA",
        "source": "built",
        "question": annotation.question,
        "answer": annotation.answer,
        "video_path": video,
        "key_frames": [{"idx": n, "time": moment.time, "path": ""} for n, moment in frames],
        "key_items": items,
        "reasoning_process": annotation.thought,
    }


def schema_of(kind: type[BaseModel]) -> Mapping[str, Any]:
    """For `response_format`: an endpoint that knows it writes nothing else."""
    named = {"name": kind.__name__.lower(), "schema": kind.model_json_schema()}
    return {"type": "json_schema", "json_schema": named}


def _nearest(time: float, times: Sequence[float]) -> float:
    nearest = min(times, key=lambda each: abs(each - time))
    if not abs(nearest - time) <= SAME_TIME:
        shown = ", ".join(f"{each:.1f}" for each in times)
        raise AnnotationError(
            "a key frame that was not shown",
            f"key_frames: no frame is at {time:g} s; they are at {shown} s",
        )
    return round(nearest, 3)


def _name(name: str) -> str:
    plain = " ".join(inert(name).split())
    if not plain or re.search(r"[<>\[\]{}]", plain):
        raise AnnotationError("an object without a plain name", f"the name {name!r} is not plain")
    return plain


def _box(numbers: Sequence[float], scale: tuple[float, float]) -> Box:
    """In shares, cut at the edge. Raises AnnotationError without area or far outside."""
    if len(numbers) == 4 and all(map(math.isfinite, numbers)):
        edges = [number / scale[at % 2] for at, number in enumerate(numbers)]
        inside = min(edges) >= -OUTSIDE and max(edges) <= 1 + OUTSIDE
        x1, y1, x2, y2 = (round(min(max(edge, 0.0), 1.0), 4) for edge in edges)
        if inside and x1 < x2 and y1 < y2:
            return (x1, y1, x2, y2)
    raise AnnotationError(
        "a box without area, or outside the frame",
        f"the box {list(numbers)} is not [x1, y1, x2, y2] inside the frame with x1 < x2, y1 < y2",
    )


def _written(box: Sequence[float]) -> str:
    return f"[{','.join(f'{edge:g}' for edge in box)}]"


def _same(name: str, said: str, box: Sequence[float], time: float, thing: Seen) -> bool:
    return (
        " ".join(name.split()).casefold() == thing.name.casefold()
        and len(box) == 4
        and _same_time(said, time)
        and all(abs(one - other) <= SAME_EDGE for one, other in zip(box, thing.box, strict=True))
    )


def _same_time(said: str, time: float) -> bool:
    try:
        return abs(float(said) - time) <= SAME_TIME
    except ValueError:
        return False
