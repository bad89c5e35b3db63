"""The tiny base's lessons: the optimizer, the tower taught alone, packed lessons, the measure."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from learners.model import tiny
from learners.model.attention import Span
from learners.model.tiny_eval import Item, items, judged
from learners.model.tiny_gaze import gaze_loss, use
from learners.model.tiny_lessons import (
    FRAMES,
    Gaze,
    Lessons,
    Recipe,
    as_turn,
    choose,
    frames_meant,
)
from learners.model.tiny_pretrain import lesson_loss, pretrain
from learners.model.tiny_sight import PATCH, cells_of, digits, look, see
from o3rl.media.frame_plan import smart_size
from o3rl.synth.questions import Lesson, lessons
from o3rl.synth.world import (
    LOOKED_AT,
    Scene,
    Thing,
    draw,
    random_picture,
    random_scene,
    split_combinations,
)
from o3rl.types import FramePlan, Task

TRAINING, HELD_OUT = split_combinations()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Random weights, with the words of the world."""
    return tiny.build(tmp_path_factory.mktemp("base"), seed=3)


@pytest.fixture(scope="module")
def model(base):
    return AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor(base):
    return AutoProcessor.from_pretrained(base)


def scene_of(*things: Thing, size: tuple[int, int] = (224, 224)) -> Scene:
    return Scene(size, 1, 1, 30, things)


def test_a_cell_tells_what_covers_most_of_it():
    # In pixels of 112 × 112: [28, 0, 56, 28] is all of the second cell, [56, 14, 84, 42] half of
    # the third and half of the seventh.
    red = Thing("red", "circle", "stays", (0.0, 1.0), (0.25, 0.25), (0.375, 0.125), (0.375, 0.125))
    white = Thing("white", "cross", "stays", (0.0, 1.0), (0.25, 0.25), (0.625, 0.25), (0.625, 0.25))
    cells = cells_of(scene_of(red, white), 0.0, (112, 112))
    assert cells.shape == (16, 11)
    assert cells[:, 0].nonzero()[0].tolist() == [1, 2, 6]
    assert cells[1].tolist() == [1, 0, 0, 2, 8, 0, 0, 5, 6, 2, 8]
    assert cells[2].tolist() == cells[6].tolist() == [1, 5, 3, 5, 6, 1, 4, 8, 4, 4, 2]
    assert cells[0].tolist() == [0] + [-100] * 10


def test_digits_are_those_of_the_written_box():
    assert digits((0.0, 0.5, 1.0, 0.08), (112, 84)) == [0, 0, 4, 2, 11, 2, 0, 7]


@pytest.mark.parametrize("drawn", [(224, 224), (256, 192)])
def test_a_look_is_what_the_processor_makes_of_the_frame_but_for_noise(processor, drawn):
    scene = random_picture(Random(1), TRAINING, size=drawn)
    size = smart_size(*drawn, FRAMES)
    found = look(scene, 0.0, size, Random(0)).patches
    small = draw(scene, 0.0).resize(size, Image.Resampling.BICUBIC)
    pixels = processor.image_processor(images=[small], return_tensors="pt")["pixel_values"]
    once = pixels.view(-1, 3, 2, PATCH * PATCH)[:, :, 0].reshape(found.shape).numpy()
    assert np.abs(found - once).max() < 0.3  # the noise has a standard deviation of 0.044
    assert np.abs((found - once).mean()) < 0.003


def test_frames_seen_together_are_as_each_by_itself(model):
    tower = model.model.visual
    size = (112, 84)
    scenes = [random_picture(Random(seed), TRAINING, size=(256, 192)) for seed in range(3)]
    looks = [look(scene, 0.0, size, Random(0)).patches for scene in scenes]
    patches = torch.from_numpy(np.stack(looks))
    with torch.no_grad():
        together = see(tower, patches, size)
        for one, seen in zip(patches, together, strict=True):
            twice = one.view(-1, 3, 1, PATCH**2).expand(-1, 3, 2, PATCH**2).reshape(len(one), -1)
            grid = torch.tensor([[1, size[1] // PATCH, size[0] // PATCH]])
            assert torch.allclose(tower(twice, grid_thw=grid).pooler_output, seen, atol=2e-5)


def test_packed_lessons_are_each_as_by_itself(model, processor):
    """The loss of a pack against each lesson's own forward by transformers."""
    use(model)
    batch = Lessons(Recipe(steps=1, scenes=1, later=True), processor)[0]
    with torch.no_grad():
        packed, _, _ = lesson_loss(model, batch)
    losses, weights, frame = [], [], 0
    for span, frames in zip(batch["layout"], batch["frames"], strict=True):
        patches = batch["patches"][frame : frame + frames]
        frame += frames
        pixels = patches.view(-1, 3, 1, PATCH**2).expand(-1, 3, 2, PATCH**2).flatten(1)
        wide, high = batch["size"]
        for part in span.completions():
            ids = torch.cat([batch["ids"][0, span.start : span.prompt_end], batch["ids"][0, part]])[
                None
            ]
            taught = batch["targets"][0, part]
            with torch.no_grad():
                logits = model(
                    input_ids=ids,
                    mm_token_type_ids=(ids == model.config.image_token_id).int(),
                    pixel_values=pixels,
                    image_grid_thw=torch.tensor([[1, high // PATCH, wide // PATCH]] * frames),
                ).logits[0, -len(taught) :]
            there = taught >= 0
            weights += batch["weights"][0, part][there].tolist()
            losses += torch.nn.functional.cross_entropy(
                logits[there], taught[there], reduction="none"
            ).tolist()
    assert set(weights) == {1.0, 4.0}
    assert packed.item() == pytest.approx(np.average(losses, weights=weights), rel=1e-4)


def test_a_head_is_taught_to_look_where_the_thing_is():
    """All scores equal: of an opening of four tokens two are the image, the thing in one of them.

    −log(2/4) for the thing in any frame, −log(1/4) for the thing now, 1.040 on average.
    """
    watched = {layer: (torch.zeros(1, 1, 6, 2), torch.ones(1, 1, 6, 2)) for layer in (1, 2)}
    gaze = Gaze(torch.tensor([4]), torch.tensor([[True, True]]), torch.tensor([[True, False]]))
    batch = {"layout": (Span(0, 4, (6,)),), "gazes": [gaze]}
    image = torch.tensor([False, True, True, False, False, False])
    assert gaze_loss(watched, batch, image).item() == pytest.approx(1.0397, abs=1e-4)
    batch["gazes"] = [None]
    assert gaze_loss(watched, batch, image).item() == 0


@pytest.mark.parametrize(
    ("kind", "question", "answer", "meant"),
    [
        ("which", "", "2 , 4", [1, 2, 2]),
        ("where", "Where is the cross in frame 3?", "<box> 1", [2, 2]),
        ("where", "Where is the cross at 4.0s?", "<box> 1", [2, 2]),
        (Task.TEMPORAL, "", "From 2 Ġto 4 From 2 Ġto 4", [1, 1, 2, 2] * 2),
        (Task.TEMPORAL_SPATIAL, "", "From 2 Ġto 4 <obj> a <obj> a ĠIt",
         [1, 1, 2, 2, 1, 1, 2, 2, 1]),
    ],
)  # fmt: skip
def test_an_answer_speaks_of_the_first_frame_and_then_of_the_last(kind, question, answer, meant):
    told = item(Task.TEMPORAL_SPATIAL)  # seen in the second and the third of four frames
    lesson = Lesson(kind, question, "", told.thing)
    assert frames_meant(answer.split(), lesson, told.plan.times_F) == meant


def test_a_lesson_on_no_thing_speaks_of_no_frame():
    assert frames_meant(["nothing"], Lesson("what", "What is in frame 1?", "nothing"), (0.0,)) == []


def test_lessons_are_chosen_by_kind_and_none_twice():
    scene = random_scene(Random(0), TRAINING)
    every = lessons(Random(0), scene, scene.times(LOOKED_AT))
    chosen = choose(Random(0), every, 1.0)
    assert len(chosen) == len({id(lesson) for lesson in chosen}) == 7
    assert choose(Random(0), every[:2], 1.0) in (every[:2], every[1::-1])
    assert {lesson.task for lesson in choose(Random(0), every, 0.0)} == {None}


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    recipe = Recipe(sight=2, steps=2, glances=2, scenes=1, warmup=1)
    whole = list(pretrain(tmp_path / "whole", recipe))
    assert [told["done"] for told in whole] == [1, 2, 3, 4]
    half = pretrain(tmp_path / "half", recipe)
    first = [next(half) for _ in range(3)]  # sight was saved at its end
    half.close()
    rest = list(pretrain(tmp_path / "half", recipe, resume=True))
    assert [told["loss"] for told in first[:2] + rest] == [told["loss"] for told in whole]
    with pytest.raises(ValueError, match=r"no state\.pt to go on from"):
        next(pretrain(tmp_path / "half", recipe, resume=True))


def item(task: Task, answer: str = "") -> Item:
    """A thing seen at 2 s and at 4 s, in the middle, of frames a second apart."""
    box = Thing("red", "cross", "stays", (1.5, 4.5), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5))
    times = (0.0, 2.0, 4.0, 6.0) if task is not Task.VISUAL else (0.0,)
    plan = FramePlan(tuple(range(len(times))), times, (112, 112), 7.0)
    scene = Scene((224, 224), 5, 35, 30, (box,))
    return Item(scene, Lesson(task, "?", answer, box), box, plan)


@pytest.mark.parametrize(
    ("text", "time", "box"),
    [
        ("<obj>a</obj><box>[28,28,84,84]</box>at<t>2.9</t>s.", 1.0, 1.0),
        ("<obj>a</obj><box>[28,28,84,84]</box>at<t>0.9</t>s.", 0.0, 1.0),
        # IoU of the left half is 1/2; of the two claims the mean is 3/4.
        ("<obj>a</obj><box>[28,28,56,84]</box>at<t>4.0</t>s. "
         "<obj>a</obj><box>[28,28,84,84]</box>at<t>9.0</t>s.", 1.0, 0.75),
        ("From 2.0s to 4.0s.", 0.0, 0.0),
        ("at<t>2.0.0</t>s", 0.0, 0.0),
    ],
)  # fmt: skip
def test_cited_times_and_boxes_are_judged(text, time, box):
    assert judged(item(Task.TEMPORAL_SPATIAL), text) == pytest.approx({"time": time, "box": box})


def test_letters_and_boxes_of_stills_are_judged():
    mcq = item(Task.MCQ, "It is a red cross.\nB")
    assert judged(mcq, "It is a white cross.\nB") == {"mcq": 1.0}
    assert judged(mcq, "It is a red cross.\nC") == {"mcq": 0.0}
    still = item(Task.VISUAL)
    first = "<obj>a</obj><box>[0,0,9,9]</box> It is a red cross.\n"
    assert judged(still, f"{first}<obj>a</obj><box>[28,28,84,84]</box>") == {"still": 1.0}
    assert judged(still, "nothing") == {"still": 0.0}


def test_what_is_measured_was_never_taught_and_is_the_same_every_time():
    found = items(4, seed=0)
    assert found == items(4, seed=0)
    assert [one.lesson.kind for one in found[:3]] == [Task.MCQ, Task.TEMPORAL_SPATIAL, Task.VISUAL]
    clips = [one.scene.things for one in found if one.lesson.kind != Task.VISUAL]
    for thing in (thing for things in clips for thing in things):
        assert (thing.colour, thing.shape, thing.path) in HELD_OUT


def test_a_turn_is_the_frames_the_question_and_the_answer_in_pixels(processor):
    scene = random_picture(Random(2), TRAINING, size=(224, 224))
    lesson = next(each for each in lessons(Random(0), scene, (0.0,)) if each.task is Task.VISUAL)
    plan = FramePlan((0,), (0.0,), (112, 112), 0.0)
    opening, rest, answer = as_turn(processor, plan, lesson)
    assert opening.endswith("<|vision_end|>\n")
    assert rest == f"{lesson.question}\nBox.<|im_end|>\n<|im_start|>assistant\n"
    assert lesson.thing is not None
    edges = ",".join(str(round(edge * 112)) for edge in lesson.thing.box(0.0))
    assert answer.count(f"<box>[{edges}]</box>") == 2
    assert answer.endswith("<|im_end|>")
