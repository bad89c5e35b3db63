"""`o3rl data build` as a user calls it, killed and run again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.commands import cli
from o3rl.data.parquet import read_rows
from tests.chat_server import serving
from tests.o3rl.annotation.vision_server import World, write_world

ROOT = Path(__file__).parents[3]


def words(media: Path, out: Path, url: str, *more: str) -> list[str]:
    command = ["data", "build", str(media / "videos.jsonl"), "--media", str(media), "--url", url]
    small = ["--frames", "8", "--pixels", "50176", "--readers", "1", "--longest-wait", "0"]
    return [*command, "--out", str(out), "--model", "double", *small, *more]


def test_a_build_that_is_killed_goes_on_and_pays_nothing_twice(tmp_path, monkeypatch, capsys):
    """Takes seconds: a process of its own is started, and killed while it waits for a reply."""
    media, out = tmp_path / "media", tmp_path / "out"
    world, running = World(write_world(media, 4)), []
    monkeypatch.setenv("MY_KEY", "secret-word")

    def answer(body, *_):
        if len(world.paid) == 6 and running[0].poll() is None:
            running[0].kill()
            running[0].wait()
        return world.answer(body)

    with serving(answer) as url:
        line = words(media, out, url, "--at-once", "1", "--key", "MY_KEY")
        running.append(
            subprocess.Popen([sys.executable, "-m", "cluster.commands.cli", *line], cwd=ROOT)
        )
        assert running[0].wait(120) < 0
        assert not list(out.glob("task=*"))
        assert cli.main([*line, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
    # The reply under way at the kill reached nobody; no other was asked for again.
    assert [count for count in world.paid.values() if count > 1] == [2]
    assert report["videos"] == 4
    assert len(read_rows(out)) == report["imported"]["rows"] > 0
    assert "<article" in (out / "build.html").read_text()
    assert (out / "prompts" / "annotate.txt").is_file()
    kept = [path for path in out.rglob("*") if path.is_file()]
    assert not any(b"secret-word" in path.read_bytes() for path in kept)
    assert cli.main(["data", "check", str(out)]) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--url", "localhost"], "annotator url is 'localhost'"),
        (["--largest", "2"], "--largest is 2.0"),
        (["--attempts", "0"], "attempts is 0"),
        (["--prompts", "nowhere"], "nowhere holds no prompts"),
    ],
)
def test_wrong_options_are_told(tmp_path, capsys, more, said):
    media = tmp_path / "media"
    media.mkdir()
    (media / "videos.jsonl").write_text('{"video_path": "a.mp4"}')
    assert cli.main([*words(media, tmp_path / "out", "http://127.0.0.1:1/v1"), *more]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["../a.mp4", "/etc/passwd"])
def test_a_path_out_of_the_root_is_refused(tmp_path, capsys, path):
    media = tmp_path / "media"
    media.mkdir()
    (media / "videos.jsonl").write_text(json.dumps({"video_path": path}))
    assert cli.main(words(media, tmp_path / "out", "http://127.0.0.1:1/v1")) == 1
    assert "path leaves the media root" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_a_reason_and_an_endpoint_that_is_not_there_an_end(
    tmp_path, capsys
):
    media = tmp_path / "media"
    media.mkdir()
    (media / "broken.mp4").write_text("no video")
    line = words(media, tmp_path / "out", "http://127.0.0.1:1/v1", "--attempts", "1")
    line[2] = str(media)
    assert cli.main(line) == 1
    assert "dropped: media: no readable video" in capsys.readouterr().out
    assert os.listdir(tmp_path / "out" / "stages") == ["annotate"]
