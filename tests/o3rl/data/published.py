"""Records in the exact form of `STGR-SFT.json` and `STGR-RL.json`, all tasks and sources."""

from collections.abc import Iterator
from itertools import cycle
from random import Random
from typing import Any

SOURCES = {  # of each task, as STGR.md's table of media roots has them
    "General video QA MCQ": ["videor1", "videor1_clevrer", "videor1_star"],
    "General video QA Free-form": ["videor1_nextqa", "videoespresso_train_video"],
    "temporal-spatial free-form QA": ["STR_plm_rdcap", "STR_hc_stvg", "STR_vidstg",
                                      "videoespresso_train_video"],
    "temporal QA": ["timerft", "TVG_didemo", "STR_activitynet"],
    "temporal QA (MCQ)": ["TVG_queryd", "timerft"],
    "visual QA": ["TreeVGR", "gqa"],
}  # fmt: skip
RL_SHARE = {"General video QA MCQ": 13000, "General video QA Free-form": 2000,
            "temporal-spatial free-form QA": 12047, "temporal QA": 2280,
            "temporal QA (MCQ)": 2904, "visual QA": 5000}  # fmt: skip
NAMES = ["a red car", "green cross", "man in a blue shirt", "dog", "whiteboard"]


def records(count: int, *, sft: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Good records by the published shares; a number in their id, so that none is there twice."""
    rng = Random(f"{seed} {sft}")
    tasks = {task: share for task, share in RL_SHARE.items() if not (sft and "(MCQ)" in task)}
    sources = {task: cycle(SOURCES[task]) for task in tasks}
    for number in range(count):
        [task] = rng.choices(list(tasks), list(tasks.values()))
        yield record(rng, task, next(sources[task]), number, sft=sft)


def record(rng: Random, task: str, source: str, number: int, *, sft: bool) -> dict[str, Any]:
    """One good record."""
    start = round(rng.uniform(0, 60), 1)
    end = round(start + rng.uniform(1, 30), 1)
    made: dict[str, Any] = {
        "id": f"{source}_{number}",
        "task": task,
        "source": source,
        "question": f"What does the person do after the door opens, case {number}?",
        "answer": f"The man takes a red cup and leaves the room {number}.",
        "video_path": f"clips/v_{number % 977}_{start}.mp4",
        "image_path": "",
        "image_size": [],
        "key_frames": [],
        "key_items": {},
    }
    thought = f"It is between <t>{start}</t>s and <t>{end}</t>s."
    if task == "General video QA MCQ":
        made["question"] += "\nOptions:\nA. opens it\nB. leaves\nC. waits\nD. sings"
        made["answer"], thought = rng.choice("ABCD"), "The person leaves the room."
    elif task == "General video QA Free-form":
        thought = "He takes a cup."
    elif task == "temporal QA":
        dot = rng.choice(("", "."))
        made["answer"] = (
            f"From <t>{start}</t>s to <t>{end}</t>s{dot}" if sft else f"[{start}, {end}]"
        )
    elif task == "temporal QA (MCQ)":
        made["question"] += "\nA. opens it\nB. leaves"
        made["answer"] = f"{rng.choice('AB')}\n[{start}, {end}]"
    elif task == "visual QA":
        thought = _image(rng, made, source, number, sft=sft)
    else:
        thought = _evidence(rng, made, start)
    if sft:
        made["reasoning_process"] = f"<think>{thought}</think>" if number % 2 else thought
    return made


def _image(rng: Random, made: dict[str, Any], source: str, number: int, *, sft: bool) -> str:
    left, top = rng.randrange(0, 300), rng.randrange(0, 200)
    box = f"[{left},{top},{left + rng.randrange(20, 300)},{top + rng.randrange(20, 200)}]"
    made |= {"video_path": "", "image_path": f"{number}.jpg", "image_size": [640, 480]}
    made["answer"] = f"<obj>cup</obj><box>{box}</box>"
    if sft and source == "TreeVGR":
        made["answer"] = rng.choice(("The cup is red.", "yes", "blue", "2"))
    return f"The <obj>cup</obj><box>{box}</box> is on the table."


def _evidence(rng: Random, made: dict[str, Any], start: float) -> str:
    thoughts = []
    for idx in sorted(rng.sample(range(16), rng.randrange(1, 4))):
        time, name = round(start + idx, 2), rng.choice(NAMES)
        left, top = rng.uniform(0, 0.6), rng.uniform(0, 0.6)
        box = [round(each, 4) for each in (left, top, left + rng.uniform(0.1, 0.4),
                                           top + rng.uniform(0.1, 0.4))]  # fmt: skip
        made["key_frames"].append({"idx": idx, "time": time, "path": f"{made['id']}_{idx}.jpg"})
        made["key_items"][str(idx)] = {name: [box]}
        thoughts.append(f"<obj>{name}</obj><box>{box}</box>at<t>{time}</t>s")
    return "There is " + " and ".join(thoughts) + "."
