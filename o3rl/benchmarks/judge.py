"""A judge over HTTP: any OpenAI-compatible endpoint, its replies kept on disk, its failures told.

V-STaR's *what* is rated by it from 0 to 3. A refusal (a wrong key, name or address) stops
everything; what gets no reply within its attempts costs its row alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from o3rl.benchmarks.runner import Row
from o3rl.benchmarks.vstar_scores import HIGHEST, PARSERS, WHAT
from o3rl.chat_endpoint import ChatEndpoint, EndpointFailed, EndpointSettings, OpenEndpoint
from o3rl.types import Message

JudgeSettings = partial(EndpointSettings, name="judge", model_option="--judge-model")

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


@dataclass(frozen=True, slots=True)
class Judge(ChatEndpoint):
    """Asks and remembers."""

    async def replies(
        self, chats: Sequence[Sequence[Message]], advance: Callable[[], None] = lambda: None
    ) -> list[str | EndpointFailed]:
        """The text for each chat, or why there is none. The first one is asked alone.

        Raises EndpointRefused, and EndpointFailed if already the first one gets no answer.
        """
        async with self.session() as session:
            first = [await _said(session, messages, advance) for messages in chats[:1]]
            for failed in first:
                if isinstance(failed, EndpointFailed):
                    raise failed
            rest = (_said(session, messages, advance) for messages in chats[1:])
            return first + list(await asyncio.gather(*rest))


async def _said(
    session: OpenEndpoint, messages: Sequence[Message], advance: Callable[[], None]
) -> str | EndpointFailed:
    try:
        return (await session.ask(messages)).text
    except EndpointFailed as error:
        return error
    finally:
        advance()


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
        failed = isinstance(reply, EndpointFailed)
        value = -1 if failed else (score_of if by == "ours" else official_score)(str(reply))
        done[i] = records[i] | {"judge_score": value, "judge_reply": str(reply)}
    return done
