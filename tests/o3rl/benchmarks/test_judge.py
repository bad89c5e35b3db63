"""The judge over real HTTP: a scripted endpoint on this machine."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from golden_values import golden

from o3rl.benchmarks.judge import (
    Judge,
    JudgeSettings,
    chat_of,
    judged,
    official_score,
    score_of,
)
from o3rl.chat_endpoint import EndpointFailed, EndpointRefused
from tests.chat_server import serving

GOLDEN = golden("vstar_scores")


def says(text):
    return 200, {"choices": [{"message": {"content": text}}]}


@contextmanager
def endpoint(*script) -> Iterator[tuple[str, list[dict]]]:
    """Answers each request with the next (status, body) of the script, the last one for ever."""
    asked: list[dict] = []

    def answer(body, path, key):
        said = script[min(len(asked), len(script) - 1)]
        asked.append(body | {"path": path, "key": key})
        return said

    with serving(answer, headers={429: ("Retry-After", "7")}) as url:
        yield url, asked


class Waits(list):
    async def __call__(self, seconds):
        self.append(seconds)


def ask(url, folder, chats, waits=None, **settings):
    waits = Waits() if waits is None else waits
    judge = Judge(JudgeSettings(url, "m", seconds=10, **settings), folder, waits)
    return asyncio.run(judge.replies(chats))


CHATS = [chat_of("Who?", "a dog", f"a cat {i}") for i in range(3)]


@pytest.mark.parametrize(("reply", "score"), GOLDEN["judge_replies"])
def test_replies_are_read_as_published(reply, score):
    assert official_score(reply) == score


def test_ours_refuses_what_is_beyond_0_to_3():
    assert [score_of(text) for text in ("3", " 2\n", "4", "10", "-1", "**2**", "")] == [
        3, 2, -1, -1, -1, -1, -1
    ]  # fmt: skip
    assert official_score("10") == 10


def test_replies_come_in_order_and_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with endpoint(says("1"), says("2")) as (url, asked):
        assert ask(url, tmp_path, CHATS) == ["1", "2", "2"]
        assert asked[0]["path"] == "/v1/chat/completions"
        assert asked[0]["key"] == "Bearer secret"
        assert (asked[0]["temperature"], asked[0]["max_tokens"], asked[0]["model"]) == (0, 512, "m")
        assert asked[0]["messages"] == CHATS[0]
        assert ask(url, tmp_path, CHATS) == ["1", "2", "2"]
        assert len(asked) == 3
        ask(url, tmp_path, CHATS[:1], max_tokens=5)  # decoded otherwise: asked anew
        assert len(asked) == 4
    assert ask("http://127.0.0.1:1/v1", tmp_path, CHATS) == ["1", "2", "2"]  # nobody is needed
    assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    for path in tmp_path.rglob("*.json"):
        path.write_text("{")  # damaged: asked again, not fatal
    with endpoint(says("3")) as (url, _):
        assert ask(url, tmp_path, CHATS) == ["3", "3", "3"]


def test_what_is_busy_or_answers_nonsense_is_asked_again(tmp_path):
    waits = Waits()
    deep = b"[" * 20_000
    script = [
        (429, {}),
        (503, {}),
        (200, b"<html>"),
        (200, {"choices": []}),
        (200, deep),
        says("2"),
    ]
    with endpoint(*script) as (url, asked):
        assert ask(url, tmp_path, CHATS[:1], waits, attempts=6) == ["2"]
    assert len(asked) == 6
    assert waits == [7, 2, 4, 8, 16]  # what Retry-After asks for, then doubling


def test_who_trickles_is_slow(tmp_path):
    """Each part comes soon, the whole never."""

    async def trickle(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

    async def asked():
        server = await asyncio.start_server(trickle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        judge = Judge(JudgeSettings(url, "m", seconds=0.2, attempts=2), tmp_path, Waits())
        try:
            with pytest.raises(EndpointFailed) as caught:
                await judge.replies(CHATS[:1])
        finally:
            server.close()
        return caught.value.reason

    assert asyncio.run(asked()) == "time-out"


def test_a_call_that_fails_costs_its_row_alone(tmp_path):
    with endpoint(says("2"), (500, b"down")) as (url, _):
        first, second, third = ask(url, tmp_path, CHATS, attempts=2)
    assert first == "2"
    assert isinstance(second, EndpointFailed)
    assert "gave no reply in 2: 500 down" in str(third)
    with endpoint(says("3")) as (url, asked):  # failures are not kept
        assert ask(url, tmp_path, CHATS) == ["2", "3", "3"]
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("status", "words"), [(401, "OPENAI_API_KEY"), (404, "the model 'm'"), (400, "limits")]
)
def test_a_refusal_stops_at_once_and_says_what_to_do(tmp_path, status, words):
    with endpoint((status, b"no")) as (url, asked), pytest.raises(EndpointRefused, match=words):
        ask(url, tmp_path, CHATS)
    assert len(asked) == 1


def test_an_endpoint_that_is_not_there_stops_after_the_first_row(tmp_path):
    waits = Waits()
    with pytest.raises(EndpointFailed, match=r"127\.0\.0\.1:1.*gave no reply in 3"):
        ask("http://127.0.0.1:1/v1", tmp_path, CHATS, waits, attempts=3)
    assert waits == [1, 2]


def test_half_a_sign_is_sent_as_something(tmp_path):
    with endpoint(says("1")) as (url, asked):
        assert ask(url, tmp_path, [chat_of("Who?", "a", "cut \ud83d")]) == ["1"]
    assert "cut ?" in asked[0]["messages"][1]["content"]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="judge url is 'localhost'"):
        JudgeSettings("localhost", "m")
    with pytest.raises(ValueError, match="--judge-model"):
        JudgeSettings("http://x/v1", "")
    assert "key_variable" not in JudgeSettings("http://x/v1", "m").shown()


def test_rows_are_judged_where_no_score_is_stored(tmp_path):
    row = GOLDEN["rows"][0]["row"]
    records = [
        {"row": row, "texts": {"answer_vqa": "<think>x</think><answer>ball</answer>"}},
        {"row": row, "texts": {"answer_vqa": "ball"}, "judge_score": 1},
        {"row": row, "texts": {}, "reason": "video missing"},
        {"row": row, "texts": {"answer_vqa": "cat"}},
        {"row": row, "texts": {"answer_vqa": "dog"}},
    ]
    with endpoint(says("3"), says("4"), (500, {})) as (url, asked):
        judge = Judge(JudgeSettings(url, "m", attempts=1, at_once=1), tmp_path, Waits())
        done = asyncio.run(judged(records, judge))
    assert [each.get("judge_score") for each in done] == [3, 1, None, -1, -1]
    assert "gave no reply" in done[4]["judge_reply"]
    assert asked[0]["messages"][1]["content"].endswith(
        "Candidate answer: ball\nYour response: "
    )  # ours hands over the answer alone
    assert len(asked) == 3
