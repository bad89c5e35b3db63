"""What the model reads and what SFT teaches it to write, word for word."""

import pytest

from o3rl.config import PromptStyle
from o3rl.text.boxes import ABSOLUTE, RELATIVE_1000, BoxConvention
from o3rl.text.grammar import answer_of, interval_of
from o3rl.text.prompts import BRIEF, frame_lines, messages, rendered, target, with_boxes
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


def asked(task: Task, *, convention: BoxConvention = ABSOLUTE) -> list[dict]:
    row = made(task, Truth("A"))
    return messages(row, PLAN, style=PromptStyle.full, convention=convention)


@pytest.mark.parametrize("task", Task)
def test_full_messages(task):
    system, user = asked(task)
    assert (system["role"], user["role"]) == ("system", "user")
    for tag in ("<think>", "</think>", "<answer>"):
        assert tag in shown(system["content"])
    text = shown(user["content"])
    assert text.count("<image>") == len(PLAN.times_F)
    lines = text.splitlines()
    assert lines[-2] == "Which?"
    assert len(lines[-1]) > 10


EVIDENCE = {  # what a thought of the task is told to hold
    Task.MCQ: set(),
    Task.FREE_FORM: set(),
    Task.TEMPORAL_SPATIAL: {"<obj>", "<box>", "at<t>"},
    Task.TEMPORAL: {"<t>"},
    Task.TEMPORAL_MCQ: {"<t>"},
    Task.VISUAL: {"<obj>", "<box>"},
}


@pytest.mark.parametrize("task", Task)
def test_evidence_is_asked_for_where_the_task_has_any(task):
    said = shown(asked(task)[0]["content"])
    assert {tag for tag in ("<obj>", "<box>", "at<t>") if tag in said} == EVIDENCE[task] - {"<t>"}
    assert ("<t>" in said) == bool(EVIDENCE[task] & {"<t>", "at<t>"})
    assert ("frame" in said, "line" in said) == (
        task is not Task.VISUAL,
        task is Task.TEMPORAL_SPATIAL,
    )


@pytest.mark.parametrize("task", [Task.TEMPORAL_SPATIAL, Task.VISUAL])
def test_boxes_are_asked_for_as_the_family_writes_them(task):
    assert "in pixels of the" in shown(asked(task)[0]["content"])
    relative = shown(asked(task, convention=RELATIVE_1000)[0]["content"])
    assert "in thousandths of width and height of the" in relative
    assert "pixels" not in relative


class Template:
    """The ends of the family's templates: instruct, and one whose models always think."""

    def __init__(self, ending: str):
        self.ending = ending

    def apply_chat_template(self, chat, **settings):
        assert settings == {"tokenize": False, "add_generation_prompt": True}
        return f"{chat[0]['content']}<|im_start|>assistant\n{self.ending}"


@pytest.mark.parametrize("ending", ["", "<think>", "<think>\n", "<think>\n\n"])
def test_the_thought_is_opened_by_the_model_itself(ending):
    chat = [{"role": "user", "content": "Why <think>?"}]
    assert rendered(Template(ending), chat) == "Why <think>?<|im_start|>assistant\n"


def test_instructions_differ_by_task():
    full = {shown(asked(task)[1]["content"]) for task in Task}
    assert len(full) == len(Task)


@pytest.mark.parametrize("task", Task)
def test_brief_messages_are_the_user_alone(task):
    row = made(task, Truth("A"))
    [user] = messages(row, PLAN, style=PromptStyle.brief, convention=ABSOLUTE)
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


@pytest.mark.parametrize(
    ("convention", "boxes"),
    [(ABSOLUTE, "[20,20,100,100] [0,0,10,5]"), (RELATIVE_1000, "[100,200,500,1000] [0,0,50,50]")],
)
def test_every_box_of_a_visual_answer_is_the_models(convention, boxes):
    """In pixels of an image of 400 × 200, shown at 200 × 100."""
    one, two = (f"<obj>car</obj><box>{box}</box>" for box in ("[40,40,200,200]", "[0,0,20,10]"))
    row = made(Task.VISUAL, Truth(f"{one} and {two} <box>there</box>", box=BOX))
    first, second = boxes.split()
    assert answer_of(target(row, STILL, convention=convention)) == (
        f"<obj>car</obj><box>{first}</box> and <obj>car</obj><box>{second}</box> <box>there</box>"
    )


def test_small_numbers_of_an_import_are_boxes():
    text = with_boxes("<box>[1e-05,0.0,0.5,1.0]</box>", (200, 100), convention=ABSOLUTE)
    assert text == "<box>[0,0,100,100]</box>"


def test_a_row_without_reasoning_cannot_teach():
    with pytest.raises(ValueError, match=r"row r has no reasoning_process"):
        target(made(Task.MCQ, Truth("A", letter="A"), None), STILL, convention=ABSOLUTE)
