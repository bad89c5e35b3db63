"""What the model reads and what SFT teaches it to write, word for word."""

import pytest

from o3rl.config import PromptStyle
from o3rl.text.boxes import ABSOLUTE, RELATIVE_1000
from o3rl.text.grammar import answer_of, interval_of
from o3rl.text.prompts import BRIEF, frame_lines, messages, target, with_boxes
from o3rl.types import FramePlan, Row, Task, Truth
from tests.o3rl.made import PLAN

STILL = FramePlan((0,), (0.0,), (200, 100), 0.0)
BOX = (0.1, 0.2, 0.5, 1.0)


def made(task: Task, truth: Truth, reasoning: str | None = "It is so.") -> Row:
    return Row("r", task, "test", "Which?", "a.mp4", truth, (400, 200), reasoning)


def shown(parts: list[dict]) -> str:
    return "".join("<image>" if part["type"] == "image" else part["text"] for part in parts)


def test_frame_lines_of_a_video():
    plan = FramePlan((0, 5, 9), (0.0, 3.25, 61.96), (112, 112), 62.4)
    assert shown(frame_lines(plan)) == (
        "Frame 1 at 0.0s: <image>\nFrame 2 at 3.2s: <image>\nFrame 3 at 62.0s: <image>\n"
        "The video is in total 62 seconds.\n"
    )


def test_an_image_has_no_line():
    assert shown(frame_lines(STILL)) == "<image>\n"


@pytest.mark.parametrize("task", Task)
def test_full_messages(task):
    system, user = messages(made(task, Truth("A")), PLAN, style=PromptStyle.full)
    assert (system["role"], user["role"]) == ("system", "user")
    for tag in ("<think>", "</think>", "<obj>", "<box>", "at<t>", "<answer>"):
        assert tag in shown(system["content"])
    text = shown(user["content"])
    assert text.count("<image>") == len(PLAN.times_F)
    lines = text.splitlines()
    assert lines[-2] == "Which?"
    assert len(lines[-1]) > 10


def test_instructions_differ_by_task():
    full = {
        shown(messages(made(task, Truth("A")), PLAN, style=PromptStyle.full)[1]["content"])
        for task in Task
    }
    assert len(full) == len(Task)


@pytest.mark.parametrize("task", Task)
def test_brief_messages_are_the_user_alone(task):
    [user] = messages(made(task, Truth("A")), PLAN, style=PromptStyle.brief)
    assert shown(user["content"]).endswith(f"seconds.\nWhich?\n{BRIEF[task]}")


TARGETS = {
    Task.MCQ: (Truth("B", letter="B"), "B"),
    Task.FREE_FORM: (Truth("a red car"), "a red car"),
    Task.TEMPORAL_SPATIAL: (Truth("a red car"), "a red car"),
    Task.TEMPORAL: (
        Truth("[2, 8.55]", interval=(2.0, 8.55)),
        "From <t>2.0</t>s to <t>8.6</t>s",
    ),
    Task.TEMPORAL_MCQ: (
        Truth("C\n[2, 8]", letter="C", interval=(2.0, 8.0)),
        "From <t>2.0</t>s to <t>8.0</t>s.\nCorrect Option: C",
    ),
    Task.VISUAL: (
        Truth("<obj>car</obj><box>[40,40,200,200]</box>", box=BOX),
        "<obj>car</obj><box>[20,20,100,100]</box>",
    ),
}


@pytest.mark.parametrize("task", Task)
def test_targets(task):
    truth, answer = TARGETS[task]
    written = target(made(task, truth), STILL, convention=ABSOLUTE)
    assert written == f"<think>It is so.</think>\n<answer>{answer}</answer>"


def test_a_target_is_read_by_the_grammar_of_the_rewards():
    truth, answer = TARGETS[Task.TEMPORAL]
    written = target(made(Task.TEMPORAL, truth), STILL, convention=ABSOLUTE)
    assert answer_of(written) == answer
    assert interval_of(answer) == ("2.0", "8.6")


@pytest.mark.parametrize(
    ("convention", "box"), [(ABSOLUTE, "[20,20,100,100]"), (RELATIVE_1000, "[100,200,500,1000]")]
)
def test_boxes_of_the_thought_are_written_in_the_models_convention(convention, box):
    reasoning = "At first <obj>car</obj><box>[0.1, 0.2,0.5,1.0]</box>at<t>1.5</t>s."
    row = made(Task.TEMPORAL_SPATIAL, Truth("yes"), reasoning)
    assert target(row, STILL, convention=convention).startswith(
        f"<think>At first <obj>car</obj><box>{box}</box>at<t>1.5</t>s.</think>"
    )


@pytest.mark.parametrize(
    "said",
    [
        "The list [0.1,0.2,0.5,1.0] and [E, E, e, E] are no boxes.",
        '<obj>car</obj><box>["0.1","0.2","0.5","1.0"]</box>',
        "<box>[E, E, e, E]</box>",
        "<box>[.,.,.,.]</box>",
        "<box>[0.1,0.2,0.5]</box>",
    ],
)
def test_what_is_no_box_of_plain_numbers_stays_and_raises_nothing(said):
    written = target(made(Task.TEMPORAL_SPATIAL, Truth("yes"), said), STILL, convention=ABSOLUTE)
    assert written == f"<think>{said}</think>\n<answer>yes</answer>"


@pytest.mark.parametrize("box", ["[40,40,200,200]", '["40", "40", 200, 2e2]', "[40,\n40,200,200]"])
def test_the_answers_box_is_the_one_between_its_tags(box):
    truth = Truth(f"Of [1,2,3,4] <obj>car</obj><box>{box}</box>", box=BOX)
    written = target(made(Task.VISUAL, truth), STILL, convention=ABSOLUTE)
    assert answer_of(written) == "Of [1,2,3,4] <obj>car</obj><box>[20,20,100,100]</box>"


def test_small_numbers_of_an_import_are_boxes():
    text = with_boxes("<box>[1e-05,0.0,0.5,1.0]</box>", (200, 100), convention=ABSOLUTE)
    assert text == "<box>[0,0,100,100]</box>"


def test_a_row_without_reasoning_cannot_teach():
    with pytest.raises(ValueError, match=r"row r has no reasoning_process"):
        target(made(Task.MCQ, Truth("A", letter="A"), None), STILL, convention=ABSOLUTE)
