"""Building rows from synthetic videos by a model that errs, over real HTTP and real decoders.

Seconds go into clips that are written and child processes that decode them.
"""

import asyncio
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from vision_server import World, chat, is_right, some_faults, write_world

from o3rl.annotation.asking import OverHttp, Prompts
from o3rl.annotation.build import KEPT, TOO_LARGE, Build, BuildSettings
from o3rl.annotation.clips import Clips
from o3rl.annotation.page import write_build_page
from o3rl.annotation.videos import read_videos
from o3rl.chat_endpoint import ChatEndpoint, EndpointSettings
from o3rl.config import FramesConfig
from o3rl.data.parquet import read_rows
from o3rl.media.decoder import MediaError
from o3rl.media.reader import MediaReader
from tests.chat_server import serving

COUNT = 24  # clips: some 100 boxes
FRAMES = FramesConfig(max_frames=8, pixels=64 * 28 * 28)


async def no_wait(seconds: float) -> None:
    del seconds


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "media"
    return root, write_world(root, COUNT)


def made(url: str, media: Path, out: Path, prompts: Path | None = None, **changes) -> Build:
    double = EndpointSettings(url, "double", attempts=3, at_once=4)
    endpoint = OverHttp(ChatEndpoint(double, out / "stages" / "replies", no_wait))
    settings = replace(BuildSettings(frames=FRAMES), **changes)
    return Build(out, media, settings, Prompts.read(prompts), endpoint, endpoint)


@pytest.fixture(scope="module")
def built(media, tmp_path_factory):
    """One build with all faults, run twice; (world, build, videos, first report, second)."""
    root, scenes = media
    world, out = World(scenes, first=some_faults), tmp_path_factory.mktemp("built")
    videos, rejected = read_videos(root / "videos.jsonl", root)
    assert (len(videos), rejected) == (COUNT, {})
    with serving(world.answer) as url:
        first = made(url, root, out).run(videos)
        asked = world.seen.total()
        build = made(url, root, out)
        second = build.run(videos)
    assert world.seen.total() == asked  # a second run asks nothing
    return world, build, videos, first, second


def test_what_is_kept_is_right_and_what_is_right_is_kept(media, built):
    world, build, *_ = built
    said = [
        (number, each["name"], [edge / 1000 for edge in each["box"]], frame["time"])
        for number, of in world.said.items()
        for frame in of["key_frames"]
        for each in frame["objects"]
    ]
    right = [each for each in said if is_right(media[1][each[0]], *each[1:])]
    assert 0.4 < len(right) / len(said) < 0.7  # of 0.7 · 0.8 = 0.56
    kept = [
        (int(row.media.removesuffix(".mp4")), name, list(box), key.time)
        for row in read_rows(build.out)
        for key in row.truth.key_frames
        for name, boxes in key.objects
        for box in boxes
    ]
    true = sum(is_right(media[1][number], *rest) for number, *rest in kept)
    assert true / len(kept) >= 0.95
    assert true / len(right) >= 0.9


def test_nothing_is_lost_and_everything_counted(built):
    world, _, _, first, second = built
    assert all(count == 1 for count in world.paid.values())
    assert [first.stopped, second.stopped] == ["", ""]
    assert all(not stage.left for stage in first.stages.values())
    assert first.stages == second.stages
    annotate, verify, agree = first.stages.values()
    assert annotate.items == annotate.kept == COUNT
    assert verify.items - verify.kept == sum(each.count for each in verify.dropped.values()) > 0
    assert agree.kept == first.imported.rows > COUNT / 2
    assert first.boxes[TOO_LARGE] > 0
    assert first.boxes[KEPT] >= first.imported.rows
    answers = sum(each["answers"] for each in first.costs.values())
    unusable = sum(each["unusable"] for each in first.costs.values())
    # What breaks the schema is of use, though it is asked to be mended, and paid for.
    assert answers - unusable == world.paid.total() + (annotate_faults := world_repairs(world))
    assert annotate_faults > 0
    assert first.costs["verify"]["prompt_tokens"] % 100 == 0
    assert second.costs == first.costs


def world_repairs(world: World) -> int:
    """Requests that were answered against the schema the first time."""
    return sum(count == 1 and not world.paid[digest] for digest, count in world.seen.items())


def test_rows_are_fit_for_sft_and_rl(built):
    from rewards.own_target import unearned

    earns = unearned()
    for row in read_rows(built[1].out):
        assert list(earns(row)) == []
        assert row.reasoning.count("<obj>") == sum(
            len(boxes) for key in row.truth.key_frames for _, boxes in key.objects
        )


def test_the_page_shows_kept_and_dropped(media, built, tmp_path):
    _, build, videos, report, _ = built
    reader = MediaReader(media[0], FRAMES)
    try:
        write_build_page(tmp_path / "b.html", build, report, videos, reader, pictures=2)
    finally:
        reader.close()
    page = (tmp_path / "b.html").read_text()
    assert page.count("<article") == 4  # two kept, two of the verify pass
    for words in (">kept<", "dropped: no box is left", TOO_LARGE, "tokens in", "data:image/jpeg"):
        assert words in page


FAILURES = [
    (429, {}, "status 429"),
    (500, b"down", "status 500"),
    (200, b"<html>", "a reply without a text"),
    (200, chat("I cannot help."), "no JSON object"),
    (200, chat(None, finish_reason="content_filter"), "a refusal"),
    (200, chat('{"question": ', finish_reason="length"), "cut short"),
    (400, b"too long", "refused with status 400"),
]


def test_who_fails_loses_no_row(media, tmp_path):
    """Clip i fails in the i-th way until it is up again; the one after them never does."""
    root, scenes = media
    world, down = World(scenes, wrong_boxes=0, wrong_names=0), [True]
    videos = read_videos(root / "videos.jsonl", root)[0][: len(FAILURES) + 1]

    def answer(body, *_):
        number = re.search(r"clip (\d+)\.", str(body))
        if down[0] and number and int(number[1]) < len(FAILURES):
            return FAILURES[int(number[1])][:2]
        return world.answer(body)

    with serving(answer) as url:
        report = made(url, root, tmp_path).run(videos)
        left = {reason: each.count for reason, each in report.stages["annotate"].left.items()}
        assert left == {reason: 1 for *_, reason in FAILURES}
        assert report.imported.rows == 1
        down[0] = False
        again = made(url, root, tmp_path).run(videos)
    assert again.imported.rows == len(videos)
    assert set(world.paid.values()) == {1}


def test_an_endpoint_that_refuses_or_fails_all_ends_the_run_and_keeps_what_is(media, tmp_path):
    root, _ = media
    videos = read_videos(root / "videos.jsonl", root)[0][:8]
    asked = Counter()

    def answer(*_):
        asked["all"] += 1
        return (401, b"no key") if asked["all"] < 2 else (503, b"")

    with serving(answer) as url:
        report = made(url, root, tmp_path).run(videos)
        assert "OPENAI_API_KEY" in report.stopped
        asked["all"] = 2
        report = made(url, root, tmp_path, patience=2).run(videos)
        assert "gave no reply in 3" in report.stopped
        assert asked["all"] < 2 + 3 * 8  # not all clips thrice
    assert report.stages["annotate"].left["status 503"].count >= 2
    assert report.imported.rows == 0


def test_the_model_is_told_what_is_wrong_once(media, tmp_path):
    root, _ = media
    videos, asked = read_videos(root / "videos.jsonl", root)[0][:1], []

    def answer(body, *_):
        asked.append(body)
        frames = [{"time": 99, "objects": [{"name": "x", "box": [0, 0, 9, 9]}]}]
        wrong = {"question": "?", "answer": "a", "thought": "b", "key_frames": frames}
        return 200, chat(json.dumps(wrong))

    with serving(answer) as url:
        report = made(url, root, tmp_path).run(videos)
    assert len(asked) == 2
    assert "no frame is at 99 s" in asked[1]["messages"][-1]["content"]
    assert asked[0]["response_format"]["json_schema"]["name"] == "annotation"
    assert list(report.stages["annotate"].dropped) == ["a key frame that was not shown"]


def test_other_settings_are_not_mixed_into_what_is_there(media, tmp_path):
    root, scenes = media
    world = World(scenes)
    videos = read_videos(root / "videos.jsonl", root)[0][:1]
    with serving(world.answer) as url:
        made(url, root, tmp_path / "out").run(videos)
        own = tmp_path / "prompts"
        own.mkdir()
        (own / "verify.txt").write_text("Is this a $name? Tell me.")
        with pytest.raises(ValueError, match="built by another model, prompts or settings"):
            made(url, root, tmp_path / "out", own)
    assert Prompts.read(own).fill("verify", name="$x {y}") == "Is this a $x {y}? Tell me."


def test_control_tokens_of_captions_and_replies_stay_text(media, tmp_path):
    root, scenes = media
    world, asked = World(scenes, wrong_boxes=0, wrong_names=0), []
    videos = read_videos(root / "videos.jsonl", root)[0][:1]
    videos[0]["caption"] = "<|im_end|> clip 0."

    def answer(body, *_):
        asked.append(json.dumps(body))
        status, said = world.answer(body)
        text = said["choices"][0]["message"]["content"]
        said["choices"][0]["message"]["content"] = text.replace("So it", "<|im_end|>So it")
        return status, said

    with serving(answer) as url:
        assert made(url, root, tmp_path).run(videos).imported.rows == 1
    assert not any("<|im_end|>" in each for each in asked)
    assert "< |im_end|>So it" in read_rows(tmp_path)[0].reasoning


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("verify", "$who?", r"asks for \$who"),
        ("verify", "5 $", "begins no word"),
        ("x", "", "none"),
    ],
)
def test_prompts_that_cannot_be_filled_are_refused(tmp_path, name, text, said):
    (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(ValueError, match=said.replace("none", "no prompt of ours")):
        Prompts.read(tmp_path)


def test_times_of_a_part_are_those_of_the_video_and_crops_its_native_pixels(videos):
    """Frame i of good.mp4 is grey 10·i mod 250 with a red corner, at i / 10 seconds."""

    async def look():
        clips = Clips(videos, FramesConfig(max_frames=4), readers=1)
        try:
            clip = await clips.clip("good.mp4", (2.0, 3.0))
            wanted = [
                (2.4, (0.5, 0.5, 1.0, 1.0)),
                (2.4, (0.0, 0.0, 0.3, 0.3)),
                (1.0, (0.5, 0, 1, 1)),
            ]
            with pytest.raises(MediaError, match="in that interval"):
                await clips.clip("good.mp4", (7.0, 8.0))
            return clip, await clips.crops("good.mp4", wanted)
        finally:
            clips.close()

    clip, (grey, red, before) = asyncio.run(look())
    assert clip.times == pytest.approx((2.0, 2.3, 2.6, 2.9), abs=0.01)
    assert grey.shape == (56, 75, 3)  # 48 × 64 pixels, as large as a model takes
    assert grey.mean() == pytest.approx(240, abs=4)
    assert before.mean() == pytest.approx(100, abs=4)
    assert red[10:-10, 10:-10, 0].mean() > 200 > 90 > red[10:-10, 10:-10, 1].mean()
