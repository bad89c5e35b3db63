import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o3rl.text.boxes import ABSOLUTE, RELATIVE_1000, box_iou, convention_of

sides = st.integers(28, 4000)
parts = st.floats(0, 1)
numbers = st.one_of(st.floats(), st.integers(), st.integers(10**400, 10**401))


def test_absolute_writes_pixels_of_the_frame():
    # 420 × 224: 0.1·420 = 42, 0.5·224 = 112, 0.25·420 = 105, 1·224 = 224
    assert ABSOLUTE.write((0.1, 0.5, 0.25, 1.0), (420, 224)) == "[42,112,105,224]"
    assert ABSOLUTE.read([42, 112, 105, 224], (420, 224)) == pytest.approx((0.1, 0.5, 0.25, 1.0))


def test_relative_writes_thousandths_of_any_frame():
    assert RELATIVE_1000.write((0.1, 0.5, 0.25, 1.0), (420, 224)) == "[100,500,250,1000]"
    assert RELATIVE_1000.read([100, 500, 250, 1000], (9, 9)) == (0.1, 0.5, 0.25, 1.0)


def test_write_clamps_and_read_does_not():
    assert ABSOLUTE.write((-0.5, 0.0, 1.5, 2.0), (100, 50)) == "[0,0,100,50]"
    assert ABSOLUTE.read([-50, 0, 150, 100], (100, 50)) == (-0.5, 0.0, 1.5, 2.0)


@pytest.mark.parametrize("convention", [ABSOLUTE, RELATIVE_1000])
@given(box=st.tuples(parts, parts, parts, parts), size=st.tuples(sides, sides))
def test_round_trip_is_exact_to_half_a_step(convention, box, size):
    text = convention.write(box, size)
    written = [int(part) for part in text.strip("[]").split(",")]
    back = convention.read(written, size)
    steps = (1000, 1000) if convention is RELATIVE_1000 else size
    for value, again, step in zip(box, back, steps * 2, strict=True):
        assert abs(value - again) <= 0.5 / step + 1e-9
    assert convention.write(back, size) == text


@pytest.mark.parametrize(
    ("model_type", "convention"),
    [
        ("qwen2_vl", RELATIVE_1000),
        ("qwen2_5_vl", ABSOLUTE),
        ("qwen3_vl", RELATIVE_1000),
        ("qwen3_vl_moe", RELATIVE_1000),
    ],
)
def test_convention_of_a_family(model_type, convention):
    assert convention_of(model_type) is convention


def test_unknown_family_fails_by_name():
    with pytest.raises(ValueError, match=r"'llava'.*qwen2_5_vl"):
        convention_of("llava")


@pytest.mark.parametrize("size", [(0, 10), (10, -1)])
def test_impossible_frame_size_fails(size):
    with pytest.raises(ValueError, match="frame size"):
        ABSOLUTE.write((0, 0, 1, 1), size)
    with pytest.raises(ValueError, match="frame size"):
        ABSOLUTE.read([0, 0, 1, 1], size)


def test_read_needs_four_numbers():
    with pytest.raises(ValueError, match="four numbers, not 3"):
        ABSOLUTE.read([1, 2, 3], (10, 10))


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),  # 1 shared, 4 + 4 − 1
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),  # touching
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
        ((2, 2, 0, 0), (0, 0, 2, 2), 0.0),  # inverted
        ((2, 2, 0, 0), (2, 2, 0, 0), 0.0),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0),  # no area
        ((0, 0, 2), (0, 0, 2, 2), 0.0),
        ((0, 0, math.nan, 2), (0, 0, 2, 2), 0.0),
        ((0, 0, math.inf, 2), (0, 0, 2, 2), 0.0),
        ((-1e308, -1e308, 1e308, 1e308), (-1e308, -1e308, 1e308, 1e308), 0.0),
        ((0, 0, 10**400, 2), (0, 0, 2, 2), 0.0),
    ],
)
def test_box_iou(first, second, iou):
    assert box_iou(first, second) == pytest.approx(iou, abs=1e-12)


@given(st.lists(numbers, max_size=5), st.lists(numbers, max_size=5))
def test_box_iou_never_raises_and_is_symmetric(first, second):
    iou = box_iou(first, second)
    assert 0.0 <= iou <= 1.0
    assert iou == box_iou(second, first)
