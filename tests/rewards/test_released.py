"""`released` against a slow, literal reading of what the published code does.

`O3RL_FUZZED=100000 pytest tests/rewards/test_released.py` compares as many completions.
"""

import json
import os
import random
from pathlib import Path

import pytest

from o3rl.config import Profile, RewardsConfig
from o3rl.types import Task
from rewards.score_file import score_record
from rewards.scorer import Scorer
from tests.rewards import released_reference

GOLDEN = json.loads(Path("tests/data/rewards_fuzz.json").read_text(encoding="utf-8"))
COUNT = int(os.environ.get("O3RL_FUZZED", "4000"))
ANSWERS = {
    Task.MCQ: ["B", "A"],
    Task.FREE_FORM: ["a brown dog runs", "the dogs are running", "狗"],
    Task.TEMPORAL_SPATIAL: ["a brown dog runs", "a cat"],
    Task.TEMPORAL: ["[2.0, 8.5]", "[0, 10]"],
    Task.TEMPORAL_MCQ: ["B\n[2.0, 8.5]", "A\n[0, 10]"],
    Task.VISUAL: ["<obj>dog</obj><box>[20,20,60,60]</box>"],
}
NAMES = ["dog", "cat", "red dog", "红狗", "a\nb", "", "<b>x</b>", "a</obj>b", "x_1"]
NUMBERS = ["5", "5.0", "4", "4.1", "6.5", "12.5", "10", "8.", ".5", "500", "0", "1e1", "-3", "inf",
           "-inf", "nan", "Infinity", "2.3.4", "..", "1_0", " 5 ", "٣", "x", "", "1e308", "1e400",
           "\n5"]  # fmt: skip
BOXES = ["[10,10,30,30]", "[50,50,70,70]", "[20, 20, 40, 40]", "[10.5,10,30,30]", "[60,60,80,80]",
         "[30,30,10,10]", "[10,10,10,30]", "[10,10,30]", "[]", '["10","10","30","30"]', "[1,2,3,x]",
         "[null,1,2,3]", "[true,0,30,30]", "[NaN,0,1,1]", "[1e400,0,1,1]", "[-5,-5,30,30]",
         "[[10,10,30,30]]", "[10,10,30,30]]", "[10,10,\n30,30]", "[10,10,30,30],[50,50,70,70]",
         "[[10,10,30,30],[50,50,70,70]]", "10,10,30,30", "[0,0,100,100]", "[{},1,2,3]",
         "[1e308,-1e308,1e308,1e308]", "[ 10 , 10 , 30 , 30 ]", "[5,5,15,15]",
         "[10,10,30,30"]  # fmt: skip
LOOSE = ["<obj>", "</obj>", "<box>", "</box>", "<t>", "</t>", "</t>s", "at", " ", "\n", "[",
         "]", "<think>", "</think>", "<answer>", "</answer>", "]</box>", "s to ",
         "dog runs"]  # fmt: skip
SAID = ["A", "B", "B.", "(B)", "[B]", " B ", "b", "B) x", "Option B", "a brown dog runs",
        "dogs run", "红狗", "Correct Option: B", "Correct Option:A",
        "Correct Option: B Correct Option: A",
        "Correct Option: B. Correct Option: B", "Correct Option:", "From "]  # fmt: skip


def _boxes(rng: random.Random) -> str:
    return "".join(f"<box>{rng.choice(BOXES)}</box>" for _ in range(rng.choice((1, 1, 1, 2, 3, 0))))


def _time(rng: random.Random) -> str:
    return f"<t>{rng.choice(NUMBERS)}</t>" + rng.choice(("s", "s", "s", "", " s"))


def _piece(rng: random.Random) -> str:
    kind = rng.randrange(10)
    if kind < 4:
        between = rng.choice(("", "", "", " ", "<box>"))
        return f"<obj>{rng.choice(NAMES)}</obj>{between}{_boxes(rng)}at{_time(rng)}"
    if kind < 6:
        return _time(rng)
    if kind < 7:
        times = (_time(rng), _time(rng)) if rng.random() < 0.5 else (f"<t>{n}</t>s" for n in (1, 9))
        return f"From {' to '.join(times)}" + rng.choice(("", ".\n"))
    return _boxes(rng) if kind < 8 else rng.choice(LOOSE)


def _completion(rng: random.Random) -> str:
    thought = "".join(_piece(rng) for _ in range(rng.randrange(6)))
    said = "".join(rng.choice((_piece(rng), rng.choice(SAID))) for _ in range(rng.randrange(4)))
    text = f"<think>{thought}</think>{rng.choice(('', chr(10), ' '))}<answer>{said}</answer>"
    if rng.random() < 0.15:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(LOOSE) + text[at + rng.randrange(9) :]
    return text


def made(count: int, seed: int):
    rng = random.Random(seed)
    for _ in range(count):
        task = rng.choice(list(Task))
        yield {
            "task": task.value,
            "completion": _completion(rng),
            "answer": rng.choice(ANSWERS[task]),
            "progress": rng.choice((0, 0.3, 0.7499, 0.75, 1)),
            "image_size": [100, 100],
            "image_size_refine": rng.choice(([50, 50], [84, 56])),
            "key_frames": GOLDEN["key_frames"],
            "key_items": GOLDEN["key_items"],
        }


def test_the_reading_gives_what_the_published_code_gives():
    for case in GOLDEN["cases"]:
        evidence = {name: GOLDEN[name] for name in ("key_frames", "key_items")}
        assert released_reference.parts_of(evidence | case) == pytest.approx(
            case["rewards"], abs=1e-9
        ), case


def test_no_completion_is_scored_otherwise():
    scorer = Scorer(RewardsConfig(profile=Profile.released))
    earned = dict.fromkeys(released_reference.PARTS, 0)
    for case in made(COUNT, seed=14):
        parts = score_record(case, scorer, profile=Profile.released).parts
        assert parts == pytest.approx(released_reference.parts_of(case), abs=1e-9), case
        for name, value in parts.items():
            earned[name] += value > 0
    assert min(earned.values()) > COUNT / 500, f"hardly anything earns: {earned}"
