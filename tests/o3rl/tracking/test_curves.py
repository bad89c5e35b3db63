"""Curves: which panels there are, that the picture is one, and that gaps do not matter."""

import math

import pytest
from PIL import Image

from o3rl.tracking.curves import PANELS, draw_curves, finite_points, matching, running_mean
from o3rl.tracking.metrics_log import MetricsLog, MetricsRecord


def journal(path, lines):
    out = MetricsLog(path)
    for step, metrics in lines:
        out.append(MetricsRecord(step, float(step), metrics))
    out.close()
    return path


def panel(title):
    return next(panel for panel in PANELS if panel.title == title)


def test_only_panels_with_numbers_are_drawn(tmp_path):
    lines = [
        (step, {"reward/total": step * 0.1, "reward/format": 0.9, "seconds/sample": 2.0})
        for step in range(1, 30)
    ]
    lines.append((10, {"validation/total": 1.0, "ratio/clipped": math.nan}))
    picture = tmp_path / "out" / "curves.png"
    titles = draw_curves(journal(tmp_path / "m.jsonl", lines), picture, title="demo")
    assert titles == [
        "Training reward",
        "Reward by part",
        "Validation reward",
        "Claims and format",
        "Seconds a step, by stage",
    ]
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    assert [entry.name for entry in picture.parent.iterdir()] == ["curves.png"]


def test_one_point_of_one_series_is_enough(tmp_path):
    picture = tmp_path / "curves.png"
    assert draw_curves(
        journal(tmp_path / "m.jsonl", [(1, {"sft/loss": 2.0})]), picture, title=""
    ) == ["Cold start: loss"]
    assert picture.stat().st_size > 1000


def test_nothing_to_draw_is_an_error_that_names_what_there_is(tmp_path):
    metrics = journal(tmp_path / "m.jsonl", [(1, {"foo": 2.0, "reward/total": math.nan})])
    with pytest.raises(ValueError, match=r"it holds \['foo'\]"):
        draw_curves(metrics, tmp_path / "c.png", title="")
    with pytest.raises(FileNotFoundError):
        draw_curves(tmp_path / "none.jsonl", tmp_path / "c.png", title="")


def test_parts_leave_out_totals_and_what_is_always_zero():
    series = {
        "reward/total": [(1, 1.0)],
        "reward/format": [(1, 1.0)],
        "reward/ans_viou": [(1, 0.0), (2, 0.0)],
        "reward/ans_acc": [(1, 0.0), (2, 0.5)],
    }
    assert matching(panel("Reward by part"), series) == ["reward/format", "reward/ans_acc"]
    assert matching(panel("Clipping"), {"ratio/clipped": [(1, 0.0)]}) == ["ratio/clipped"]
    assert matching(panel("Clipping"), series) == []


def test_finite():
    assert finite_points({"a": [(1, math.nan), (2, 1.0)], "b": [(1, math.inf)]}) == {
        "a": [(2, 1.0)]
    }


def test_running_mean_by_hand():
    # windows: [0,3] [0,3,6] [3,6,9] [6,9]
    assert running_mean([0.0, 3.0, 6.0, 9.0], 3) == [1.5, 3.0, 6.0, 7.5]
    assert running_mean([], 3) == []
