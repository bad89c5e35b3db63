"""How the four questions are asked: prompts from files, pictures among the text, an annotator.

An annotator is anything that answers chat messages with pictures. The one here is an endpoint over
HTTP; a replica of our own joins by the same protocol.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Protocol

import numpy as np

from o3rl.chat_endpoint import ChatEndpoint, OpenEndpoint, Spent, Usable
from o3rl.evaluation.html import data_url, jpeg
from o3rl.text.prompts import frame_label
from o3rl.types import Message

PROMPTS = {  # by name of the file, without .txt: what its text may hold as $word
    "annotate": {"count", "context", "unit"},
    "repair": {"problem"},
    "verify": {"name"},
    "rewrite": {"question", "answer", "thought", "problem", "citations"},
}


class Annotator(Protocol):
    """A vision model that is asked anything."""

    async def ask(
        self,
        messages: Sequence[Message],
        pictures: Sequence[np.ndarray],
        *,
        usable: Usable,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a reply of which `usable` says nothing; the same one to the same question.

        Pictures (uint8 [height, width, 3]) stand where messages hold `{"type": "image"}`, in order.
        Raises EndpointFailed where there is none for now, and EndpointRefused.
        """
        ...


class AnnotatorSource(Protocol):
    """Where an annotator comes from: what a build is given."""

    @property
    def at_once(self) -> int:
        """How many questions it takes at the same time."""
        ...

    @property
    def made_by(self) -> Sequence[object]:
        """What its replies depend on: model and decoding. Other ones are another data set."""
        ...

    def session(self, spent: Spent) -> AbstractAsyncContextManager[Annotator]:
        """The annotator while it is needed; `spent` is told of each answer and its tokens."""
        ...


@dataclass(frozen=True, slots=True)
class OverHttp:
    """The annotator behind an endpoint; `enforce`: it is told the JSON schema."""

    endpoint: ChatEndpoint
    enforce: bool = True

    @property
    def at_once(self) -> int:
        """See `AnnotatorSource`."""
        return self.endpoint.settings.at_once

    @property
    def made_by(self) -> Sequence[object]:
        """See `AnnotatorSource`."""
        settings = self.endpoint.settings
        return (settings.model, settings.temperature, settings.max_tokens, self.enforce)

    @asynccontextmanager
    async def session(self, spent: Spent) -> AsyncIterator[Annotator]:
        """See `AnnotatorSource`."""
        async with self.endpoint.session(spent) as opened:
            yield _Asking(opened, self.enforce)


@dataclass(frozen=True, slots=True)
class _Asking:
    opened: OpenEndpoint
    enforce: bool

    async def ask(
        self,
        messages: Sequence[Message],
        pictures: Sequence[np.ndarray],
        *,
        usable: Usable,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """See `Annotator`."""
        more = {"response_format": dict(schema)} if schema and self.enforce else {}
        chat = _with_pictures(messages, pictures)
        return (await self.opened.ask(chat, usable=usable, more=more)).text


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts, by name."""

    texts: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path | None) -> "Prompts":
        """The shipped ones, a user's own in `folder` before them.

        Raises ValueError on a file there that is none of them, or asks for what is not known.
        """
        own = {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.txt"))}
        if folder is not None and not own:
            raise ValueError(
                f"{folder} holds no prompts; they are NAME.txt of {', '.join(PROMPTS)}"
            )
        texts = {}
        for name in [*PROMPTS, *(name for name in own if name not in PROMPTS)]:
            where = own.get(name)
            if name not in PROMPTS:
                raise ValueError(f"{where} is no prompt of ours; they are {', '.join(PROMPTS)}")
            shipped = files("o3rl.annotation") / "prompts" / f"{name}.txt"
            texts[name] = (where or shipped).read_text(encoding="utf-8").strip()
            template = Template(texts[name])
            known = {f"${word}" for word in PROMPTS[name]}
            if not template.is_valid():
                raise ValueError(f"{where} holds a $ that begins no word; write $$ for the sign")
            if unknown := set(template.get_identifiers()) - PROMPTS[name]:
                raise ValueError(f"{where} asks for ${unknown.pop()}; known are {sorted(known)}")
        return cls(texts)

    def fill(self, prompt: str, **words: object) -> str:
        """The text of a prompt; what is put in stays as it is, whatever it holds."""
        return Template(self.texts[prompt]).substitute(words)


def frames_message(times: Sequence[float], text: str) -> list[Message]:
    """Frames, each under its time, then a text."""
    content: list[dict[str, Any]] = []
    for number, time in enumerate(times, start=1):
        content += [{"type": "text", "text": frame_label(number, time)}, {"type": "image"}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _with_pictures(messages: Sequence[Message], pictures: Sequence[np.ndarray]) -> list[Message]:
    left = iter(pictures)

    def part(each: dict[str, Any]) -> dict[str, Any]:
        if each != {"type": "image"}:
            return each
        return {"type": "image_url", "image_url": {"url": data_url(jpeg(next(left)), "jpeg")}}

    return [
        message
        if isinstance(message["content"], str)
        else message | {"content": [part(each) for each in message["content"]]}
        for message in messages
    ]
