"""A judge over HTTP: any OpenAI-compatible endpoint, its replies kept on disk, its failures told.

V-STaR's *what* is rated by it from 0 to 3. A reply is asked for once: its file is named by the
digest of model, messages and decoding. A refusal (a wrong key, name or address) stops everything;
what is busy, slow or answers nonsense is asked again within limits, and then costs its row alone.
"""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from o3rl.benchmarks.runner import Message, Row
from o3rl.benchmarks.vstar_scores import HIGHEST, PARSERS, WHAT
from o3rl.files import write_text

logger = logging.getLogger(__name__)

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # worth asking again
LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for

SYSTEM = (
    "As an AI assistant, your task is to evaluate a candidate answer in comparison to a given "
    "correct answer.\nThe question itself, the correct 'groundtruth' answer, and the candidate "
    "answer will be provided to you.\nYour assessment should range from 0 to 3, based solely on "
    "the semantic similarity between the groundtruth and the candidate answer, disregarding any "
    "grammatical differences.\nA rating of 0 suggests no similarity, implying the candidate answer "
    "is entirely incorrect.\nA rating of 1 suggests low similarity, meaning the candidate answer "
    "is largely incorrect.\nA rating of 2 suggests high similarity, meaning the candidate answer "
    "is largely correct.\nLastly, a rating of 3 indicates complete similarity, which means the "
    "candidate answer is entirely correct.\nYour response should be a single integer from 0, 1, 2, "
    "or 3.\n"
)
_USER = "Question: {}\nGroundtruth answer: {}\nCandidate answer: {}\nYour response: "


class JudgeRefused(ValueError):
    """The endpoint will not answer this, however often it is asked."""


class JudgeFailed(ValueError):
    """No usable reply within the attempts."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """The endpoint and how it decodes; greedy, as Open-o3's."""

    url: str  # up to and with /v1
    model: str
    temperature: float = 0.0
    max_tokens: int = 512
    seconds: float = 120.0  # of one attempt
    attempts: int = 5
    at_once: int = 8
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key, if any

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"judge url is {self.url!r}; it must be like http://HOST:8000/v1")
        if not self.model:
            raise ValueError("the judge's model has no name; say which with --judge-model")

    def shown(self) -> dict[str, Any]:
        """For a result: all but the name of the key's variable."""
        return {key: value for key, value in asdict(self).items() if key != "key_variable"}


@dataclass(frozen=True, slots=True)
class Judge:
    """Asks and remembers; `sleep` is an argument so that tests need not wait."""

    settings: JudgeSettings
    cache: Path
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def replies(
        self, chats: Sequence[Sequence[Message]], advance: Callable[[], None] = lambda: None
    ) -> list[str | JudgeFailed]:
        """The text for each chat, or why there is none. The first one is asked alone.

        Raises JudgeRefused, and JudgeFailed if already the first one gets no answer.
        """
        room = asyncio.Semaphore(self.settings.at_once)
        key = os.environ.get(self.settings.key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(headers=headers, timeout=self.settings.seconds) as client:

            async def one(messages: Sequence[Message]) -> str | JudgeFailed:
                async with room:
                    try:
                        return await self._reply(client, messages)
                    except JudgeFailed as error:
                        return error
                    finally:
                        advance()

            first = [await one(messages) for messages in chats[:1]]
            for failed in first:
                if isinstance(failed, JudgeFailed):
                    raise failed
            return first + list(await asyncio.gather(*map(one, chats[1:])))

    async def _reply(self, client: httpx.AsyncClient, messages: Sequence[Message]) -> str:
        asked = {
            "model": self.settings.model,
            "messages": list(messages),
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        path = self.cache / digest[:2] / f"{digest}.json"
        known = _known(path)
        if known is None:
            known = await self._attempts(client, asked)
            write_text(path, json.dumps({"asked": asked, "reply": known}))
        return known

    async def _attempts(self, client: httpx.AsyncClient, asked: dict[str, Any]) -> str:
        url, why = f"{self.settings.url.rstrip('/')}/chat/completions", ""
        for attempt in range(self.settings.attempts):
            wait = min(2.0**attempt, LONGEST_WAIT)
            try:
                response = await client.post(url, json=asked)
            except httpx.InvalidURL as error:
                raise JudgeRefused(f"the judge's address {url} is none: {error}") from error
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
            else:
                if response.status_code == httpx.codes.OK:
                    text = _text_of(response)
                    if text is not None:
                        return text
                    why = f"a reply without a text: {response.text[:200]!r}"
                elif response.status_code in BUSY:
                    why = f"{response.status_code} {response.text[:200]}"
                    wait = _asked_wait(response, wait)
                else:
                    raise JudgeRefused(_refusal(url, response, self.settings))
            logger.warning("judge, attempt %d of %d: %s", attempt + 1, self.settings.attempts, why)
            if attempt + 1 < self.settings.attempts:
                await self.sleep(wait)
        raise JudgeFailed(f"the judge at {url} gave no reply in {self.settings.attempts}: {why}")


def chat_of(question: str, answer: str, candidate: str) -> list[Message]:
    """What the judge is asked about one answer."""
    asked = _USER.format(question, answer, candidate)
    whole = asked.encode(errors="replace").decode()  # a reply that was cut may end in half a sign
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": whole}]


def official_score(reply: str) -> int:
    """The published reading: an integer, with blanks or line ends around it, or −1."""
    try:
        return int(reply)
    except ValueError:
        return -1


def score_of(reply: str) -> int:
    """Ours: the same, and −1 beyond 0 to 3."""
    value = official_score(reply)
    return value if 0 <= value <= HIGHEST else -1


async def judged(
    records: Sequence[Row],
    judge: Judge,
    *,
    by: str = "ours",
    advance: Callable[[], None] = lambda: None,
) -> list[Row]:
    """V-STaR's records with `judge_score` and `judge_reply` where a what answer had no score.

    A row whose call failed is scored −1 and says so in `judge_reply`.
    """
    what = PARSERS[by].what
    candidates = [what(record.get("texts", {}).get(WHAT) or "") for record in records]
    open_ones = [
        i
        for i, (record, said) in enumerate(zip(records, candidates, strict=True))
        if said and record.get("judge_score") is None
    ]
    chats = [
        chat_of(records[i]["row"]["question"], records[i]["row"]["answer"], candidates[i])
        for i in open_ones
    ]
    done = list(records)
    for i, reply in zip(open_ones, await judge.replies(chats, advance), strict=True):
        failed = isinstance(reply, JudgeFailed)
        value = -1 if failed else (score_of if by == "ours" else official_score)(str(reply))
        done[i] = records[i] | {"judge_score": value, "judge_reply": str(reply)}
    return done


def _known(path: Path) -> str | None:
    """The reply that is kept; None where none is, or the file is damaged."""
    try:
        reply = json.loads(path.read_text(encoding="utf-8"))["reply"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return reply if isinstance(reply, str) else None


def _text_of(response: httpx.Response) -> str | None:
    try:
        text = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _asked_wait(response: httpx.Response, wait: float) -> float:
    """What `Retry-After` says in seconds, within bounds."""
    try:
        asked = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return wait
    return min(max(asked, 0.0), LONGEST_WAIT)


def _refusal(url: str, response: httpx.Response, settings: JudgeSettings) -> str:
    hints = {
        401: f"set the environment variable {settings.key_variable} to its key",
        403: f"set the environment variable {settings.key_variable} to a key that may",
        404: f"look at the address, and whether it serves the model {settings.model!r}",
    }
    hint = hints.get(response.status_code, "look at the model's name and limits")
    return f"the judge at {url} refuses ({response.status_code}: {response.text[:200]}); {hint}"
