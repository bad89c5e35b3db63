"""An OpenAI-compatible chat endpoint over HTTP: its replies kept on disk, its failures told.

A usable reply is asked for once: its file is named by the digest of the request. What is busy,
slow, cut short or nonsense is asked again after a wait that doubles, within limits, and then costs
the caller one question. A refusal (a wrong key, name or address) is told at once. The key comes
from the environment and is written nowhere.
"""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from o3rl.files import write_text
from o3rl.types import Message

logger = logging.getLogger(__name__)

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # worth asking again


class EndpointRefused(ValueError):
    """The endpoint will not answer this, however often it is asked; `status` is of HTTP, or 0."""

    def __init__(self, words: str, status: int = 0):
        super().__init__(words)
        self.status = status


class EndpointFailed(ValueError):
    """No usable reply within the attempts; `reason` is short, so that it can be counted."""

    def __init__(self, words: str, reason: str = ""):
        super().__init__(words)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Where it is, how it decodes (greedily unless told otherwise), how long to bear with it."""

    url: str  # up to and with /v1
    model: str
    temperature: float = 0.0
    max_tokens: int = 512
    seconds: float = 120.0  # of one attempt
    attempts: int = 5
    at_once: int = 8
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key, if any
    longest_wait: float = 60.0  # seconds between two attempts, whatever the server asks for
    name: str = "endpoint"  # as messages call it
    model_option: str = "--model"

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"{self.name} url is {self.url!r}; it must be like http://HOST:8000/v1"
            )
        if not self.model:
            raise ValueError(
                f"the {self.name}'s model has no name; say which with {self.model_option}"
            )
        for name in ("attempts", "at_once", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.name}: {name} is {getattr(self, name)}; 1 or more")

    def shown(self) -> dict[str, Any]:
        """For a result: all but the name of the key's variable."""
        aside = ("key_variable", "longest_wait", "name", "model_option")
        return {key: value for key, value in asdict(self).items() if key not in aside}


@dataclass(frozen=True, slots=True)
class Reply:
    """A text, whether it is whole, and what it cost in tokens.

    >>> Reply("yes", True, 412, 2)
    """

    text: str
    whole: bool  # False: it was cut at the limit of tokens
    prompt_tokens: int = 0
    completion_tokens: int = 0


Usable = Callable[[Reply], str]  # why a reply is of no use, short; empty if it is
Spent = Callable[[str, Reply], None]  # told of each answer over HTTP: why of no use, the reply


def _any(reply: Reply) -> str:
    del reply
    return ""


def _unspent(reason: str, reply: Reply) -> None:
    del reason, reply


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Asks and remembers; `sleep` is an argument so that tests need not wait."""

    settings: EndpointSettings
    cache: Path
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    @asynccontextmanager
    async def session(self, spent: Spent = _unspent) -> AsyncIterator["OpenEndpoint"]:
        """Connections for many questions, at most `at_once` of which are under way."""
        key = os.environ.get(self.settings.key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(headers=headers, timeout=self.settings.seconds) as client:
            yield OpenEndpoint(self, client, asyncio.Semaphore(self.settings.at_once), spent)


@dataclass(frozen=True, slots=True)
class OpenEndpoint:
    """One endpoint's open connections."""

    endpoint: ChatEndpoint
    client: httpx.AsyncClient
    room: asyncio.Semaphore
    spent: Spent

    async def ask(
        self,
        messages: Sequence[Message],
        *,
        usable: Usable = _any,
        more: Mapping[str, Any] | None = None,
    ) -> Reply:
        """The reply to a chat, from disk if it was given before; `more` goes into the request.

        Raises EndpointRefused and EndpointFailed.
        """
        settings = self.endpoint.settings
        asked = {
            "model": settings.model,
            "messages": list(messages),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            **(more or {}),
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        path = self.endpoint.cache / digest[:2] / f"{digest}.json"
        known = _known(path)
        if known is not None and not usable(known):
            return known
        async with self.room:
            reply = await self._attempts(asked, usable)
        kept = {"asked": _without_pictures(asked), "reply": reply.text, "whole": reply.whole}
        costs = {key: getattr(reply, key) for key in ("prompt_tokens", "completion_tokens")}
        write_text(path, json.dumps(kept | costs))
        return reply

    async def _attempts(self, asked: dict[str, Any], usable: Usable) -> Reply:
        settings = self.endpoint.settings
        url, reason, words = f"{settings.url.rstrip('/')}/chat/completions", "", ""
        for attempt in range(settings.attempts):
            wait = min(2.0**attempt, settings.longest_wait)
            try:
                async with asyncio.timeout(settings.seconds):  # httpx bounds each part of it alone
                    response = await self.client.post(url, json=asked)
            except httpx.InvalidURL as error:
                words = f"the {settings.name}'s address {url} is none: {error}"
                raise EndpointRefused(words) from error
            except (httpx.HTTPError, TimeoutError) as error:
                slow = isinstance(error, httpx.TimeoutException | TimeoutError)
                reason = "time-out" if slow else "connection"
                words = str(error) or type(error).__name__
            else:
                if response.status_code == httpx.codes.OK:
                    reply, reason = _reply_of(response)
                    reason = reason or usable(reply)
                    self.spent(reason, reply)
                    if not reason:
                        return reply
                    words = f"{reason}: {response.text[:200]!r}"
                elif response.status_code in BUSY:
                    reason = f"status {response.status_code}"
                    words = f"{response.status_code} {response.text[:200]}"
                    wait = _asked_wait(response, wait, settings.longest_wait)
                else:
                    raise EndpointRefused(_refusal(url, response, settings), response.status_code)
            told = (settings.name, attempt + 1, settings.attempts, words)
            logger.info("%s, attempt %d of %d: %s", *told)
            if attempt + 1 < settings.attempts:
                await self.endpoint.sleep(wait)
        words = f"the {settings.name} at {url} gave no reply in {settings.attempts}: {words}"
        raise EndpointFailed(words, reason)


def _known(path: Path) -> Reply | None:
    """The reply that is kept; None where none is, or the file is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        costs = (int(kept.get(key, 0)) for key in ("prompt_tokens", "completion_tokens"))
        reply = Reply(kept["reply"], bool(kept.get("whole", True)), *costs)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return reply if isinstance(reply.text, str) else None


def _reply_of(response: httpx.Response) -> tuple[Reply, str]:
    """What it says, and why that is no reply; empty if it is one."""
    nothing = Reply("", False)
    try:
        body = response.json()
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        costs = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
        text, refusal = message.get("content"), message.get("refusal")
        plain = str(text or "").encode(errors="replace").decode()  # what was cut may be half a sign
        reply = Reply(plain, choice.get("finish_reason") != "length", *costs)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return nothing, "a reply without a text"
    if refusal or choice.get("finish_reason") == "content_filter":
        return reply, "a refusal"
    return reply, "" if isinstance(text, str) else "a reply without a text"


def _without_pictures(asked: Any) -> Any:
    """The request with pictures as digests, else each file would hold them."""
    if isinstance(asked, dict):
        return {key: _without_pictures(value) for key, value in asked.items()}
    if isinstance(asked, list):
        return [_without_pictures(value) for value in asked]
    if isinstance(asked, str) and asked.startswith("data:image/"):
        return f"sha256:{hashlib.sha256(asked.encode()).hexdigest()}"
    return asked


def _asked_wait(response: httpx.Response, wait: float, longest: float) -> float:
    """What `Retry-After` says in seconds, within bounds."""
    try:
        asked = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return wait
    return min(max(asked, 0.0), longest)


def _refusal(url: str, response: httpx.Response, settings: EndpointSettings) -> str:
    hints = {
        401: f"set the environment variable {settings.key_variable} to its key",
        403: f"set the environment variable {settings.key_variable} to a key that may",
        404: f"look at the address, and whether it serves the model {settings.model!r}",
    }
    hint = hints.get(response.status_code, "look at the model's name and limits")
    said = response.text[:200]
    return f"the {settings.name} at {url} refuses ({response.status_code}: {said}); {hint}"
