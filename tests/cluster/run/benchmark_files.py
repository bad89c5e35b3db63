"""The synthetic world in each benchmark's own file format, a few rows each."""

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

from o3rl.synth.dataset import write_video
from o3rl.synth.world import Scene, draw, random_scene, split_combinations

LETTERS = "ABCD"
MISSING = "gone"  # a video that no folder has


def write_benchmarks(folder: Path, *, rows: int, seed: int) -> dict[str, Path]:
    """Videos below `folder`/media/deep and one file a benchmark; its path by name.

    Each has `rows` rows; the last one's video is missing.
    """
    deep = folder / "media" / "deep"
    deep.mkdir(parents=True)
    training, _ = split_combinations()
    scenes = [random_scene(Random(f"{seed}/{number}"), training) for number in range(rows)]
    names = [f"clip{number}" for number in range(rows - 1)] + [MISSING]
    for name, scene in zip(names, scenes, strict=True):
        if name != MISSING:
            write_video(deep / f"{name}.mp4", scene)
    draw(scenes[0], 0.0).save(folder / "media" / "picture.png")
    shown = list(zip(names, scenes, strict=True))
    written = {
        "vstar": [_vstar(name, scene) for name, scene in shown],
        "tvgbench": [_tvg(name, scene) for name, scene in shown],
        "videomme": [_mme(name, scene) for name, scene in shown],
        "videommmu": [_mmmu(name, scene, number) for number, (name, scene) in enumerate(shown)],
    }
    paths = {name: folder / f"{name}.json" for name in written}
    for name, path in paths.items():
        path.write_text(json.dumps(written[name]))
    paths["worldsense"] = folder / "WorldSense.tsv"
    with paths["worldsense"].open("w", newline="") as file:
        table = [_sense(name, scene, index) for index, (name, scene) in enumerate(shown)]
        writer = csv.DictWriter(file, list(table[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(table)
    return paths


def _options(scene: Scene) -> tuple[list[str], str]:
    """Four shapes, and the letter of the first thing's."""
    shapes = ["circle", "square", "triangle", "cross"]
    return shapes, LETTERS[shapes.index(scene.things[0].shape)]


def _what(scene: Scene) -> str:
    return f"What shape is the {scene.things[0].colour} object?"


def _vstar(name: str, scene: Scene) -> dict[str, Any]:
    thing, (width, height) = scene.things[0], scene.size
    start, end = thing.seen
    second = int(start) + 1
    left, top, right, bottom = thing.box(second)
    box = {
        "timestamp": second,
        "frame_index": second * scene.rate,
        "xmin": left * width,
        "ymin": top * height,
        "xmax": right * width,
        "ymax": bottom * height,
    }
    return {
        "vid": name,
        "domain": "Synthetic",
        "fps": scene.rate,
        "width": width,
        "height": height,
        "frame_count": scene.frames,
        "question": _what(scene),
        "answer": thing.shape,
        "temporal_question": f"When is the {thing.colour} object seen?",
        "timestamps": [start, end],
        "spatial_question": f"Where is the {thing.colour} object?",
        "spatial_question_2": f"Where is the {thing.shape}?",
        "bboxes": [box],
    }


def _tvg(name: str, scene: Scene) -> dict[str, Any]:
    thing, seconds = scene.things[0], scene.frames / scene.rate
    start, end = thing.seen
    return {
        "path": f"{name}.mp4",
        "question": f"the {thing.colour} object is seen",
        "answer": f"{start}-{end}",
        "start": 0.0,
        "end": seconds,
        "duration": seconds,
        "source": "synthetic.json",
    }


def _mme(name: str, scene: Scene) -> dict[str, Any]:
    options, answer = _options(scene)
    asked = {
        "question_id": f"{name}-1",
        "task_type": "Attribute Perception",
        "question": _what(scene),
        "options": [f"{letter}. {x}" for letter, x in zip(LETTERS, options, strict=True)],
        "answer": answer,
    }
    return {
        "video_id": name,
        "duration": "short",
        "domain": "Synthetic",
        "sub_category": "Shapes",
        "questions": [asked],
    }


def _sense(name: str, scene: Scene, index: int) -> dict[str, Any]:
    options, answer = _options(scene)
    return {
        "index": index,
        "video": name,
        "video_path": f"{name}.mp4",
        "duration": "<1min",
        "domain": "Synthetic",
        "candidates": str([f"{x}. {y}" for x, y in zip(LETTERS, options, strict=True)]),
        "sub_category": "Shapes",
        "audio_class": "['Music']",
        "task_domain": "Recognition",
        "task_type": "Object",
        "question": _what(scene),
        "answer": answer,
    }


def _mmmu(name: str, scene: Scene, number: int) -> dict[str, Any]:
    options, answer = _options(scene)
    row = {"id": name, "question": _what(scene), "options": options, "answer": answer}
    if number:
        return row | {"track": "perception"}
    return row | {
        "track": "adaptation",
        "question": f"<image 1> {_what(scene)}",
        "image": "picture.png",
    }
