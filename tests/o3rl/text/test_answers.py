"""Forms of answers and evidence that people have, and what each is read as."""

import pytest

from o3rl.text.answers import TruthError, options_of, parse_interval, parse_letter
from o3rl.text.truth import REFORMED, parse_key_frames, parse_truth
from o3rl.types import Task

OPTIONS = {"A": "The blue car", "B": "The red car", "C": "2"}


@pytest.mark.parametrize(
    ("written", "interval"),
    [
        ("[2.0, 8.5]", (2, 8.5)),
        ("(1.0, 3.0)", (1, 3)),
        ("[1., 3.]", (1, 3)),
        ("[.5, 3]", (0.5, 3)),
        ('["1.0", "3.0"]', (1, 3)),
        ("1.0-3.0", (1, 3)),
        ("1.0 – 3.0 s", (1, 3)),
        ("1 to 3 seconds", (1, 3)),
        ("1, 3", (1, 3)),
        ("[00:12, 00:18]", (12, 18)),
        ('["00:12", "00:18"]', (12, 18)),
        ("1:05 to 1:20", (65, 80)),
        ("1:00:05.5 - 1:00:20", (3605.5, 3620)),
        ("From <t>1.0</t>s to <t>3.0</t>s", (1, 3)),
        ("From <t>1.0</t>s to <t>3.0</t>s.", (1, 3)),
        ("From <t>1:05</t>s to <t>1:20</t>s.", (65, 80)),
        ("It happens from <t>1.0</t>s to <t>3.0</t>s, I think.", (1, 3)),
        ("between 1 and 3", (1, 3)),
    ],
)
def test_intervals(written, interval):
    assert parse_interval(written) == interval
    assert parse_truth(Task.TEMPORAL, written).interval == interval
    both = parse_truth(Task.TEMPORAL_MCQ, f"B\n{written}")
    assert (both.letter, both.interval) == ("B", interval)


@pytest.mark.parametrize(
    "written", ["[3, 1]", "3-1", "1:20 to 1:05", "-2 to 3", "[1, 2, 3]", "1 to", "one to three",
                "[[1, 2], [3, 4]]", "1" * 100_000, "1:2:3:4 to 5", "12"]
)  # fmt: skip
def test_what_is_no_interval(written):
    with pytest.raises(TruthError):
        parse_interval(written)


@pytest.mark.parametrize(
    ("written", "letter"),
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("[B]", "B"), ("B)", "B"), (" b ", "B"),
        ("B. The red car", "B"), ("(B) the red car.", "B"), ("B: The red car", "B"),
        ("The red car", "B"), ("the red car.", "B"), ("Answer: B", "B"), ("Option B", "B"),
        ("Correct Option: B", "B"), ("The answer is B.", "B"), (1, "B"), ("1", "B"), ("0", "A"),
    ],
)  # fmt: skip
def test_letters(written, letter):
    assert parse_letter(written, OPTIONS) == letter


@pytest.mark.parametrize(
    "written", ["D", "Bee", "AB", "", "7", "-1", "B. The blue car", "А", "a car"]
)
def test_what_is_no_letter(written):
    with pytest.raises(TruthError):
        parse_letter(written, OPTIONS)


def test_without_options_a_letter_is_all_that_can_be_read():
    assert parse_letter("B. The red car") == "B"
    assert parse_truth(Task.MCQ, "<answer>B</answer>").letter == "B"
    assert parse_truth(Task.MCQ, ["B"]).letter == "B"
    for written in ("The red car", "1", 1):
        with pytest.raises(TruthError):
            parse_letter(written)


@pytest.mark.parametrize(
    ("own", "question"),
    [
        (["The blue car", "The red car"], ""),
        (["A. The blue car", "B. The red car"], ""),
        ({"A": "The blue car", "B": "The red car"}, ""),
        (None, "Which?\nA. The blue car\nB. The red car"),
        (None, "Which?\n(A) The blue car\n(B) The red car\nAnswer."),
        (None, "Which? A. The blue car B. The red car"),
        (None, "Of A. Smith's, which? (A) The blue car (B) The red car"),
        (None, "Which? a) The blue car, b) The red car"),
        (None, "Which?\n- **A.** The blue car\n- **B.** The red car"),
        (None, "Which?\nA - The blue car\nB - The red car"),
        (None, "Which?\nA、The blue car\nB、The red car"),
        ("A. The blue car\nB. The red car", "Which?"),
    ],
)
def test_options(own, question):
    assert options_of(own, question) == {"A": "The blue car", "B": "The red car"}


@pytest.mark.parametrize("written", ["(Z)", "z", "E. foo"])
@pytest.mark.parametrize(
    "question", ["Which? A. one B. two C. three D. four", "(A) 1 (B) 2, (C) 3; (D) 4",
                 "Which?\nA. one\nC. three\nD. four", "Which?\nA. one\nB.\nC. three"],
)  # fmt: skip
def test_a_letter_beyond_the_options_is_none(question, written):
    with pytest.raises(TruthError, match="answer names no option"):
        parse_letter(written, options_of(None, question))


def test_a_number_that_is_an_options_text_is_no_index():
    assert parse_letter("2", options_of(None, "How many? A. 1 B. 2 C. 3")) == "B"


def test_options_that_are_none():
    assert options_of(None, "A. B. Smith\nwrote what?") == {}
    with pytest.raises(TruthError):
        options_of("A, B")


@pytest.mark.parametrize(
    "written",
    ["A\n[2, 8]", "A [2, 8]", "(A) 2 - 8", ["A", [2, 8]], "A. The cat\n2-8",
     "From <t>2</t>s to <t>8</t>s.\nCorrect Option: A",
     "<answer>From <t>2</t>s to <t>8</t>s. Correct Option: A.</answer>"],
)  # fmt: skip
def test_letter_and_interval(written):
    truth = parse_truth(Task.TEMPORAL_MCQ, written)
    assert (truth.letter, truth.interval) == ("A", (2.0, 8.0))


@pytest.mark.parametrize(
    ("written", "text"),
    [(7, "7"), (2.5, "2.5"), (["a dog"], "a dog"), (["a dog", 3], "a dog, 3"),
     ("<answer> a dog </answer>", "a dog")],
)  # fmt: skip
def test_numbers_and_lists_are_text(written, text):
    mended = []
    assert parse_truth(Task.FREE_FORM, written, mended=mended).text == text
    assert len(mended) == 1


@pytest.mark.parametrize("written", [None, True, float("nan"), [], [[["a"]]], [None], {"a": 1}])
def test_what_is_no_text(written):
    with pytest.raises(TruthError):
        parse_truth(Task.FREE_FORM, written)


def test_a_list_of_four_is_a_box():
    assert parse_truth(Task.VISUAL, [20, 10, 100, 50], image_size=[200, 100]).box == (
        0.1, 0.1, 0.5, 0.5)  # fmt: skip


BOX = [0.1, 0.1, 0.3, 0.3]


@pytest.mark.parametrize(
    "items",
    [
        {3: {"dog": [BOX]}},
        {"003": {"dog": [BOX]}},
        {"3": {"dog": [BOX], "cat": None}, "4": None},
        {"3": {"dog": BOX}},
        {"3": {"dog": {"x1": 0.1, "y1": 0.1, "x2": 0.3, "y2": 0.3}}},
        {"3": {"dog": [{"xmin": 0.1, "ymin": 0.1, "xmax": 0.3, "ymax": 0.3}]}},
        {"3": {"dog": [{"x": 0.1, "y": 0.1, "w": 0.2, "h": 0.2}]}},
        [("3", [("dog", [BOX])])],
        {"3": {"dog": [BOX, None]}},
    ],
)
def test_forms_of_key_items(items):
    [frame] = parse_key_frames([{"idx": 3, "time": "00:05"}], items)
    assert frame.time == 5.0
    [(name, (box,))] = frame.objects
    assert name == "dog"
    assert box == pytest.approx(BOX)


def test_idx_as_text_with_zeros():
    mended = []
    frames = parse_key_frames([{"idx": "000", "time": 1}], {"0": {"dog": [BOX]}}, mended)
    assert (len(frames), mended) == (1, [REFORMED])
    assert len(parse_key_frames([{"idx": 0, "time": 1}], {"000": {"dog": [BOX]}})) == 1
    with pytest.raises(TruthError, match="lacks idx"):
        parse_key_frames([{"idx": 1, "time": 1}], {"000": {"dog": [BOX]}})
    with pytest.raises(TruthError):
        parse_key_frames([{"idx": 0, "time": 1}], {"0": None})
