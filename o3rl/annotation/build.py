"""Videos to STGR rows in three passes: annotate, verify each box, hold thought against evidence.

    videos ─► annotate ─► verify ─► agree ─► rows (`o3rl.data.stgr`)

Each pass is a folder of Parquet below OUT/stages, and what it drops has a reason. The work is
waiting for an endpoint, so it is one process with a bound on what is asked at once.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from o3rl.annotation.annotation import (
    UNITS,
    Annotation,
    AnnotationError,
    Moment,
    Rewrite,
    Seen,
    citation,
    disagreements,
    json_in,
    plain_thought,
    read_annotation,
    record_of,
    schema_of,
)
from o3rl.annotation.asking import Annotator, AnnotatorSource, Prompts, frames_message
from o3rl.annotation.clips import Clips
from o3rl.annotation.passes import Outcome, Record, Spending, StagePass
from o3rl.chat_endpoint import EndpointFailed, EndpointRefused, Reply
from o3rl.config import FramesConfig, require
from o3rl.data.stgr import Counted, ImportReport, Unearned, count, import_records
from o3rl.files import write_text
from o3rl.media.decoder import MediaError, MediaUnready
from o3rl.text.boxes import box_area
from o3rl.text.control_tokens import inert
from o3rl.types import Message

STAGES = ("annotate", "verify", "agree")
KEPT, TOO_LARGE, NOT_SO = "kept", "covers too much of the frame", "its crop is something else"

Watch = Callable[..., None]  # told the stage, its items in all, and what became of one
Work = Callable[..., Awaitable[Outcome]]  # on an item, by an annotator


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What is shown, what is believed, and when to stop."""

    frames: FramesConfig = field(default_factory=lambda: FramesConfig(pixels=512 * 512))
    unit: str = "thousandths"  # in which the annotator writes boxes
    largest: float = 0.8  # of the frame that a box may cover
    patience: int = 20  # rows in a row that the endpoint failed, after which the run ends
    readers: int = 2

    def __post_init__(self):
        require(self.unit in UNITS, "--boxes", self.unit, f"one of {', '.join(UNITS)}")
        require(0 < self.largest <= 1, "--largest", self.largest, "in (0, 1]")
        require(self.patience >= 1, "--patience", self.patience, "1 or more")


@dataclass(slots=True)
class StageReport:
    """One pass: items that came in, that went on, dropped by reason, left for the next run."""

    items: int
    kept: int
    dropped: dict[str, Counted] = field(default_factory=dict)
    left: dict[str, Counted] = field(default_factory=dict)


@dataclass(slots=True)
class BuildReport:
    """What became of every video, of every box, and what it cost. `stopped`: why it ended early."""

    videos: int
    stages: dict[str, StageReport]
    boxes: dict[str, int]  # by verdict
    costs: dict[str, dict[str, int]]  # by stage, over all runs
    imported: ImportReport
    stopped: str = ""


@dataclass
class Build:
    """One data set being built in `out`."""

    out: Path
    media: Path
    settings: BuildSettings
    prompts: Prompts
    annotator: AnnotatorSource
    verifier: AnnotatorSource
    passes: dict[str, StagePass] = field(init=False)
    ledger: Spending = field(init=False)

    def __post_init__(self):
        stages, made_by = self.out / "stages", self._made_by()
        self.passes = {name: StagePass(stages / name, made_by) for name in STAGES}
        self.ledger = Spending(stages / "spent.jsonl")

    def run(
        self,
        videos: Sequence[Record],
        *,
        unearned: Unearned | None = None,
        watch: Watch = lambda *_: None,
    ) -> BuildReport:
        """All passes over `videos` (`o3rl.annotation.videos`), then the rows of what is kept.

        An endpoint that fails ends the passes early; the rows that there are are written all the
        same, and the report says why.
        """
        stopped = ""
        try:
            asyncio.run(self._passes(videos, watch))
        except (EndpointFailed, EndpointRefused, MediaUnready) as error:
            stopped = str(error)
        records = list(self.records(videos))
        imported = import_records(
            records, self.out, name=str(self.out / "stages"), media=self.media, unearned=unearned
        )
        report = self._report(videos, imported, stopped)
        write_text(self.out / "build.json", json.dumps(asdict(report), indent=1) + "\n")
        return report

    def records(self, videos: Sequence[Record]) -> Iterator[dict[str, Any]]:
        """The STGR records of what passed."""
        for item in self.after(videos)["agree"]:
            annotation = Annotation.model_validate(item["annotation"])
            yield record_of(item["id"], item["video"], annotation)

    def after(self, videos: Sequence[Record]) -> dict[str, list[Record]]:
        """What each pass let through so far."""
        found, items = {}, list(videos)
        for name in STAGES:
            items = list(self.passes[name].kept(items))
            found[name] = items
        return found

    async def _passes(self, videos: Sequence[Record], watch: Watch) -> None:
        clips = Clips(self.media, self.settings.frames, readers=self.settings.readers)
        work = {"annotate": self._annotate, "verify": self._verify, "agree": self._agree}
        items: Sequence[Record] = videos
        try:
            for name in STAGES:
                await self._pass(name, items, partial(work[name], clips), partial(watch, name))
                items = list(self.passes[name].kept(items))
        finally:
            clips.close()

    async def _pass(self, name: str, items: Sequence[Record], work: Work, watch: Watch) -> None:
        def spent(reason: str, reply: Reply) -> None:
            costs = {key: getattr(reply, key) for key in ("prompt_tokens", "completion_tokens")}
            self.ledger.spend(name, reason, costs)

        source = self.verifier if name == "verify" else self.annotator
        async with source.session(spent) as annotator:
            await self.passes[name].run(
                items,
                partial(work, annotator),
                at_once=source.at_once,
                patience=self.settings.patience,
                advance=partial(watch, len(items)),
            )

    async def _annotate(self, clips: Clips, annotator: Annotator, item: Record) -> Outcome:
        try:
            clip = await clips.clip(item["video"], item["interval"])
        except MediaError as error:
            return Outcome(item["id"], item, f"media: {error.reason}", item["video"])
        unit = self.settings.unit
        text = self.prompts.fill(
            "annotate",
            count=len(clip.times),
            context=_context(item),
            unit=UNITS[unit].format(*clip.size),
        )
        messages, frames = frames_message(clip.times, text), list(clip.frames)

        def read(said: str) -> Annotation:
            return read_annotation(json_in(said), times=clip.times, size=clip.size, unit=unit)

        said = await self._json(annotator, messages, frames, Annotation)
        try:
            annotation = read(said)
        except AnnotationError as error:
            problem = self.prompts.fill("repair", problem=error)
            said = await self._json(annotator, _again(messages, said, problem), frames, Annotation)
            try:
                annotation = read(said)
            except AnnotationError as second:
                return Outcome(item["id"], item, second.reason, str(second))
        return Outcome(item["id"], item | {"annotation": annotation.model_dump()})

    async def _verify(self, clips: Clips, annotator: Annotator, item: Record) -> Outcome:
        """Each box alone: those that are too large go unasked, the others by their crop."""
        evidence = list(Annotation.model_validate(item["annotation"]).evidence())
        small = [each for each in evidence if box_area(each[1].box) <= self.settings.largest]
        try:
            wanted = [(time, _corners(thing)) for time, thing in small]
            crops = await clips.crops(item["video"], wanted) if wanted else []
        except MediaError as error:
            return Outcome(item["id"], item, f"media: {error.reason}", item["video"])

        async def is_so(thing: Seen, crop: Any) -> bool:
            text = self.prompts.fill("verify", name=thing.name)
            content = [{"type": "image"}, {"type": "text", "text": text}]
            messages = [{"role": "user", "content": content}]
            said = await annotator.ask(messages, [crop], usable=_undecided)
            return _yes(said) is True

        asked = (is_so(thing, crop) for (_, thing), crop in zip(small, crops, strict=True))
        # Each is paid for: none is ended because another failed.
        said = await asyncio.gather(*asked, return_exceptions=True)
        for failed in said:
            if isinstance(failed, BaseException):
                raise failed
        answers = iter(said)
        verdicts = [
            (KEPT if next(answers) else NOT_SO) if each in small else TOO_LARGE for each in evidence
        ]
        shown = [
            {"time": time, **thing.model_dump(), "verdict": verdict}
            for (time, thing), verdict in zip(evidence, verdicts, strict=True)
        ]
        kept = [each for each, said in zip(evidence, verdicts, strict=True) if said == KEPT]
        record = item | {"boxes": shown}
        if not kept:
            names = ", ".join(f"{thing.name!r}" for _, thing in evidence)
            return Outcome(item["id"], record, "no box is left", f"{item['id']}: {names}")
        moments = [
            Moment(time=time, objects=[thing for when, thing in kept if when == time])
            for time in dict.fromkeys(when for when, _ in kept)
        ]
        frames = [moment.model_dump() for moment in moments]
        return Outcome(item["id"], record | {"held": item["annotation"] | {"key_frames": frames}})

    async def _agree(self, clips: Clips, annotator: Annotator, item: Record) -> Outcome:
        """As it is where thought and evidence match, else with a thought that was written again."""
        del clips
        annotation = Annotation.model_validate(item["held"])
        problems = disagreements(annotation)
        if problems:
            text = self.prompts.fill(
                "rewrite",
                question=annotation.question,
                answer=annotation.answer,
                thought=annotation.thought,
                problem="; ".join(problems),
                citations="\n".join(citation(*each) for each in annotation.evidence()),
            )
            messages = [{"role": "user", "content": text}]
            said = json_in(await self._json(annotator, messages, [], Rewrite))
            thought = said.get("thought") if said else None
            if not isinstance(thought, str) or len(said or ()) != 1:
                return Outcome(item["id"], item, "the thought written again is none", str(said))
            if not thought.strip():
                reason = "what evidence is left does not carry the answer"
                return Outcome(item["id"], item, reason, item["id"])
            annotation.thought = plain_thought(inert(thought.strip()))
            if problems := disagreements(annotation):
                reason = "thought and evidence differ, also when written again"
                return Outcome(item["id"], item, reason, f"{item['id']}: {problems[0]}")
        return Outcome(item["id"], item | {"annotation": annotation.model_dump()})

    async def _json(
        self, annotator: Annotator, messages: Sequence[Message], pictures: list, kind: type
    ) -> str:
        return await annotator.ask(messages, pictures, usable=_no_json, schema=schema_of(kind))

    def _made_by(self) -> str:
        """Of all that changes what an annotator is asked or what is believed."""
        asked = [list(self.annotator.made_by), list(self.verifier.made_by)]
        believed = asdict(replace(self.settings, patience=1, readers=1))
        for name in ("readers", "decode_seconds", "cache_mib"):
            believed["frames"].pop(name)
        known = json.dumps([asked, believed, dict(self.prompts.texts)], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    def _report(
        self, videos: Sequence[Record], imported: ImportReport, stopped: str
    ) -> BuildReport:
        stages, boxes = {}, {}
        items: Iterable[Record] = videos
        for name, after in self.after(videos).items():
            stage, items = self.passes[name], list(items)
            report = StageReport(len(items), len(after), left=stage.left)
            for outcome in stage.dropped(items):
                count(report.dropped, outcome.reason, outcome.example)
            stages[name], items = report, after
        judged = [self.passes["verify"].outcomes.get(item["id"]) for item in videos]
        for box in (box for each in judged if each for box in each.record.get("boxes", ())):
            boxes[box["verdict"]] = boxes.get(box["verdict"], 0) + 1
        return BuildReport(len(videos), stages, boxes, self.ledger.totals(), imported, stopped)


def _context(item: Record) -> str:
    """What is known of the video; a caption is somebody's text, so no control token."""
    said = []
    if item["interval"] is not None:
        said.append("They are from {:.1f} s to {:.1f} s of it.".format(*item["interval"]))
    if item["caption"]:
        said.append(f"It was described so, maybe wrongly: {inert(item['caption'])}")
    return "\n".join(said)


def _again(messages: Sequence[Message], said: str, text: str) -> list[Message]:
    said = inert(said)
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": text}]


def _no_json(reply: Reply) -> str:
    if not reply.whole:
        return "cut short"
    return "" if json_in(reply.text) is not None else "no JSON object"


def _undecided(reply: Reply) -> str:
    return "" if _yes(reply.text) is not None else "neither yes nor no"


def _yes(text: str) -> bool | None:
    words = [word.strip(".,:;!*\"'()").lower() for word in text.split()[:1]]
    return {"yes": True, "no": False}.get(words[0]) if words else None


def _corners(thing: Seen) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = thing.box
    return x1, y1, x2, y2
