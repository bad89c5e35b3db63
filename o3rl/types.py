"""What travels: the nouns of the sentence, in the order in which they are made.

Row (an STGR record that passed import) → Prompt (a row admitted to training) → Rollout (one
completion) → Group (the rollouts of one prompt) → Reward (parts by name) → ScoredGroup (with
advantages). All are frozen; pixels are never in them, only the content key under which frames
lie.

Axis suffixes everywhere: `_G` rollouts of one group, `_T` tokens, `_B` batch, `_F` frames.
Boxes are xyxy; in rows and truths they are normalised to [0, 1], whatever the model family writes.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

Box = tuple[float, float, float, float]
Interval = tuple[float, float]

# The built-in parts of a reward: of the answer, of the thought, of the form.
PARTS = (
    "ans_acc",
    "ans_tiou",
    "ans_viou",
    "thk_temporal_point",
    "thk_temporal_segment",
    "thk_spatial",
    "format",
)


class Task(StrEnum):
    """The six tasks of STGR, by the strings that its files use."""

    MCQ = "General video QA MCQ"
    FREE_FORM = "General video QA Free-form"
    TEMPORAL_SPATIAL = "temporal-spatial free-form QA"
    TEMPORAL = "temporal QA"
    TEMPORAL_MCQ = "temporal QA (MCQ)"
    VISUAL = "visual QA"


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """One annotated frame: its time in seconds and the true boxes of each object by name.

    >>> KeyFrame(7.5, (("red car", ((0.1, 0.1, 0.4, 0.5),)),))
    """

    time: float
    objects: tuple[tuple[str, tuple[Box, ...]], ...]
    path: str | None = None  # an image of the frame, relative to the media root; else the video's

    def __post_init__(self):
        if not (math.isfinite(self.time) and self.time >= 0):
            raise ValueError(f"key frame time is {self.time!r}; it must be a finite number >= 0")


@dataclass(frozen=True, slots=True)
class Truth:
    """What is right for one row, parsed once on import; fields that a task lacks are None or empty.

    >>> Truth("A\\n[2.0, 8.5]", letter="A", interval=(2.0, 8.5))
    """

    text: str  # the answer string as the file has it
    letter: str | None = None
    interval: Interval | None = None
    box: Box | None = None  # visual QA, normalised
    key_frames: tuple[KeyFrame, ...] = ()  # sorted by time


@dataclass(frozen=True, slots=True)
class Row:
    """One STGR record that passed import.

    `media` is a video, or for visual QA an image, relative to the media root; `part` are seconds of
    the video where the row is of a part alone, whose times count from its first frame.
    `reasoning` (SFT only) is the thought of the file's text; its boxes are normalised to [0, 1].
    """

    id: str
    task: Task
    source: str
    question: str
    media: str
    truth: Truth
    image_size: tuple[int, int] | None = None  # width, height of the original image (visual QA)
    reasoning: str | None = None
    part: Interval | None = None


class FinishReason(StrEnum):
    """Why a completion ended: the model ended it, or it has as many tokens as it may."""

    STOP = "stop"
    LENGTH = "length"


class FailureKind(StrEnum):
    """Whose fault a failure is."""

    FILE = "file"  # the row's media, which cannot be read
    SERVICE = "service"  # died, was too slow, lost an answer: another attempt may do
    PROMPT = "prompt"  # whoever tries: another attempt would end the same way
    COMPLETION = "completion"  # one of no use, or too few of a group
    AGE = "age"  # of the weights that sampled it
    LEARNER = "learner"  # which refuses it


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Names one set of weights: `n` grows by one a batch, `incarnation` a learner restart."""

    incarnation: int
    n: int

    def __str__(self) -> str:
        return f"{self.incarnation}.{self.n}"


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Which frames the model sees: their times in seconds and the size of each in pixels."""

    indices_F: tuple[int, ...]  # in the video; -1: a key frame read from its own image
    times_F: tuple[float, ...]  # true presentation times
    size: tuple[int, int]  # width, height after resizing
    duration: float  # seconds; 0 for an image
    images_F: tuple[str | None, ...] = ()  # path of a key frame's own image, where index is -1

    def __post_init__(self):
        if not self.indices_F or len(self.indices_F) != len(self.times_F):
            raise ValueError(f"{len(self.indices_F)} frames but {len(self.times_F)} times")

    def tokens(self, side: int) -> int:
        """Visual tokens of all frames; `side` in pixels is of what one token shows, the model's
        patch × merge factor (28 of Qwen2.5-VL); with a multiple of it this is a lower bound."""
        width, height = self.size
        return len(self.times_F) * (width // side) * (height // side)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row admitted to training or evaluation: the question, its frames by key, and the truth.

    `group` numbers the prompts of a run; `attempt` grows when a prompt is requeued, and a result of
    an older attempt is thrown away. `progress` is p in [0, 1], fixed at admission (STGR.md: the
    curriculum's σ of all siblings and retries depends on it). `media_key` names the decoded frames
    by content of video, plan and size.
    """

    group: int
    row: Row
    plan: FramePlan
    media_key: str
    progress: float
    incarnation: int = 0
    attempt: int = 0

    def __post_init__(self):
        if not 0.0 <= self.progress <= 1.0:
            raise ValueError(
                f"progress of group {self.group} is {self.progress}; it must be in [0, 1]"
            )


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of one prompt, as sampled by one policy version (or several, by `spans`).

    >>> Rollout(0, 0, (5, 9), (-0.1, -2.3), ((0, Version(0, 4)),), FinishReason.STOP, "…")
    """

    group: int
    sample: int  # index among its siblings
    tokens_T: tuple[int, ...]
    logprobs_T: tuple[float, ...]  # the sampler's, one per token
    spans: tuple[tuple[int, Version], ...]  # (first token, version that sampled from there on)
    finish: FinishReason
    text: str

    def __post_init__(self):
        if len(self.tokens_T) != len(self.logprobs_T):
            raise ValueError(
                f"{len(self.tokens_T)} tokens but {len(self.logprobs_T)} logprobs "
                f"in group {self.group}"
            )
        if not self.tokens_T:
            raise ValueError(f"sample {self.sample} of group {self.group} is empty")
        if not self.spans or self.spans[0][0] != 0:
            raise ValueError(f"spans of group {self.group} must start at token 0: {self.spans}")

    @property
    def version(self) -> Version:
        """The version that started it."""
        return self.spans[0][1]


@dataclass(frozen=True, slots=True)
class Failure:
    """A completion, or with `sample` None all of a prompt, that is lost to a fault; no zero.

    `group` is None where the row made no prompt.
    """

    group: int | None
    sample: int | None
    reason: str
    kind: FailureKind

    def __post_init__(self):
        for name in ("group", "sample"):
            number = getattr(self, name)
            if number is not None and number < 0:
                raise ValueError(f"{name} of a failure is {number}; it must be 0 or more, or None")

    @classmethod
    def of_service(cls, prompt: Prompt, reason: str) -> "Failure":
        """All of `prompt` is lost to a service."""
        return cls(prompt.group, None, reason, FailureKind.SERVICE)

    @property
    def final(self) -> bool:
        """Whether another attempt would end the same way."""
        return self.kind is FailureKind.PROMPT


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one prompt, in order of their sample index, and the failures beside them.

    `prompt_tokens_T` is what the engine saw, image placeholders expanded; `frames_digest` is of the
    pixels that it saw. The learner refuses a group where its own differ.
    """

    prompt: Prompt
    rollouts_G: tuple[Rollout, ...]
    prompt_tokens_T: tuple[int, ...]
    frames_digest: str
    failures: tuple[Failure, ...] = ()


Message = dict[str, Any]
"""Of a chat: its role, and as content a text or parts, `{"type": "text", "text": …}` and, for each
image that comes with the chat, in order, `{"type": "image"}`."""


class ReplySampling(Protocol):
    """How the replies to a chat are decoded, whoever asks."""

    @property
    def max_tokens(self) -> int:
        """Of a reply."""
        ...

    @property
    def temperature(self) -> float:
        """0: greedy."""
        ...

    @property
    def repetition_penalty(self) -> float:
        """1: none."""
        ...

    @property
    def samples(self) -> int:
        """Replies to one chat."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """One `<obj>…</obj><box>…</box>at<t>…</t>s` of a thought, and what became of it.

    Boxes are normalised to the frame. `key_time` and `distance` are None where the row has no key
    frames; `gated` is true if the temporal gate stopped the claim.
    """

    name: str
    time: float
    boxes: tuple[Box, ...]
    key_time: float | None = None
    distance: float | None = None
    gated: bool = False
    iou: float = 0.0


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one completion: parts by name, their weighted sum, notes, and each claim.

    `metrics` are logged, not rewarded: the point reward at σ = 1, recall of evidence.
    """

    parts: dict[str, float]
    total: float
    claims: tuple[Claim, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        bad = {name: value for name, value in self.parts.items() if not math.isfinite(value)}
        if bad or not math.isfinite(self.total):
            raise ValueError(f"reward is not finite: parts {bad}, total {self.total}")


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with one reward and one advantage per surviving rollout."""

    group: Group
    rewards_G: tuple[Reward, ...]
    advantages_G: tuple[float, ...]

    def __post_init__(self):
        if not len(self.group.rollouts_G) == len(self.rewards_G) == len(self.advantages_G):
            raise ValueError(
                f"group {self.group.prompt.group}: {len(self.group.rollouts_G)} rollouts, "
                f"{len(self.rewards_G)} rewards, {len(self.advantages_G)} advantages"
            )


PART_WORDS = {
    "ans_acc": "answer",
    "ans_tiou": "answer, temporal IoU",
    "ans_viou": "answer, box IoU",
    "thk_temporal_point": "thought, points in time",
    "thk_temporal_segment": "thought, times inside",
    "thk_spatial": "thought, boxes",
    "format": "format",
}


def makes_claim(reward: Reward) -> bool:
    """Whether the thought cites an object with box and time."""
    return bool(reward.claims)


def without_format(reward: Reward, format_weight: float) -> float:
    """The total less the format part, by the weight with which that was added."""
    return reward.total - format_weight * reward.parts["format"]
