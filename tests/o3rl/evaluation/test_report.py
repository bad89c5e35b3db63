"""The report: its keys, its gains by hand, its table, and a file that is whole or absent."""

import io
import json

import pytest
from rich.console import Console

from o3rl.evaluation.report import build, digest, gains, read, table, versions, write


def summary(total: float, proximity: float | None, gated: float | None) -> dict:
    return {
        "rows": 200,
        "total": total + 0.9,
        "total_without_format": total,
        "format": 0.9,
        "accuracy": 0.5,
        "temporal_iou": 0.4,
        "box_iou": None,
        "recall": 0.3,
        "parts": {"format": 0.9},
        "claims": {"share": 0.7, "time_proximity": proximity, "gated_box_iou": gated},
    }


def report(**stages) -> dict:
    return build(
        stages,
        seconds={"sft": 60.0, "rl": 300.0, "total": 370.0},
        steps={"sft": 150, "rl": 60},
        samples={"sft": 2400, "rl": 7680},
        tokens={"sft": 200_000, "rl": 700_000},
        seed=3,
        config="seed: 3\n",
    )


FULL = {
    "base": {"greedy": summary(1.5, 0.5, 0.2), "sampled": summary(1.0, 0.4, 0.1)},
    "sft": {"greedy": summary(1.0, 0.3, 0.1), "sampled": summary(0.8, 0.2, 0.0)},
    "rl": {"greedy": summary(1.1, 0.6, 0.2), "sampled": summary(1.2, 0.5, 0.3)},
}


def test_gains_by_hand():
    out = gains(report(**FULL))
    assert out["sampled/total_without_format"] == pytest.approx(0.5)
    assert out["greedy/total_without_format"] == pytest.approx(0.1)
    assert out["sampled/claims/time_proximity"] == pytest.approx(1.5)
    assert out["greedy/claims/gated_box_iou"] == pytest.approx(1.0)
    assert out["sampled/claims/gated_box_iou"] is None  # from nothing there is no share


def test_gains_without_sft_are_unknown():
    assert set(gains(report(rl=FULL["rl"])).values()) == {None}


def test_keys_and_round_trip(tmp_path):
    out = report(**FULL)
    assert set(out) == {
        *("schema", "base", "sft", "rl", "gains", "seconds", "steps", "samples", "tokens"),
        *("seed", "config_digest", "versions"),
    }
    assert out["seconds"] == {"sft": 60.0, "rl": 300.0, "total": 370.0}
    assert out["gains"] == gains(out)
    path = tmp_path / "deep" / "report.json"
    write(path, out)
    assert read(path) == out
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


def test_nan_is_refused_and_the_old_report_stays(tmp_path):
    path = tmp_path / "report.json"
    write(path, report(**FULL))
    with pytest.raises(ValueError, match="JSON compliant"):
        write(path, report(**FULL) | {"seconds": {"total": float("nan")}})
    assert read(path)["seed"] == 3


def test_what_is_no_report_is_refused(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="no report of schema 1"):
        read(path)


def test_other_stages_are_refused():
    with pytest.raises(ValueError, match="stage 'dpo'"):
        report(dpo=FULL["rl"])
    with pytest.raises(ValueError, match="beam"):
        report(rl={"beam": FULL["rl"]["greedy"]})


def shown(out: dict) -> str:
    text = io.StringIO()
    Console(file=text, width=80).print(table(out))
    return text.getvalue()


def test_table_shows_numbers_gains_and_gaps():
    text = shown(report(**FULL))
    [line] = [line for line in text.splitlines() if "without format" in line]
    assert line.split()[2:] == [
        *("1.500", "1.000", "1.100", "+10%"),
        *("1.000", "0.800", "1.200", "+50%"),
    ]
    [line] = [line for line in text.splitlines() if "box IoU, claims" in line]
    assert line.split()[3:] == ["–"] * 8
    assert "200 held-out rows · seed 3 · 370 s" in text


def test_table_of_one_stage_alone():
    text = shown(report(sft={"greedy": FULL["sft"]["greedy"]}))
    assert "rl" not in text.split()
    assert "1.000" in text


def test_digest_and_versions():
    assert digest("a") == digest("a") != digest("b")
    assert versions()["o3rl"]
    assert versions()["python"]
