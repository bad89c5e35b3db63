"""`o3rl configs`: the list, one file, all of it with comments, the reference and the schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from omegaconf import OmegaConf

from cluster.commands import cli
from o3rl.config import load
from o3rl.config.shipped import find, folder, load_named

DOCS = Path(__file__).parents[3] / "docs"
SHIPPED = sorted(path.stem for path in folder().glob("*.yaml"))


def printed(capsys, *arguments: str) -> str:
    assert cli.main(["configs", *arguments]) == 0
    return capsys.readouterr().out


def test_the_list_says_what_each_is_for(capsys):
    out = printed(capsys)
    assert [name for name in SHIPPED if name not in out] == []
    assert "synthetic videos, the" in out


def test_one_is_printed_as_it_is_written(capsys):
    assert printed(capsys, "tiny_demo") == find("tiny_demo").read_text()


@pytest.mark.parametrize("name", SHIPPED)
def test_resolved_is_read_back_as_the_same_run(name, capsys, tmp_path):
    out = printed(capsys, name, "seed=7", "--resolved")
    (tmp_path / "all.yaml").write_text(out)
    assert load(tmp_path / "all.yaml") == load_named(name, ["seed=7"])
    assert "  # Limit per video, after which its reader is killed; more than 0\n" in out


@pytest.mark.parametrize(
    ("file", "argument"), [("settings.md", "--reference"), ("settings.schema.json", "--schema")]
)
def test_what_lies_in_docs_is_what_is_printed(file, argument, capsys):
    assert (DOCS / file).read_text() == printed(capsys, argument), (
        f"mend by: o3rl configs {argument} > docs/{file}"
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_the_schema_takes_what_is_shipped(name, capsys):
    values = OmegaConf.to_container(OmegaConf.load(find(name)), resolve=False)
    jsonschema.validate(values, schema(capsys))


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"loop": {"stpes": 3}}, ["loop"]),
        ({"loop": {"groups": 0}}, ["loop", "groups"]),
        ({"learning": {"zero": 1}}, ["learning", "zero"]),
        ({"learning": {"schedule": "line"}}, ["learning", "schedule"]),
        ({"model": {"path": ""}}, ["model", "path"]),
        ({"frames": 3}, ["frames"]),
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_code_does(wrong, where, capsys, tmp_path):
    with pytest.raises(jsonschema.ValidationError) as caught:
        jsonschema.validate(wrong, schema(capsys))
    assert list(caught.value.absolute_path) == where
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(ValueError, match=where[0]):
        load(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--resolved"], "name it"), (["--schema", "tiny_demo"], "no CONFIG"), (["nope"], "shipped")],
    ids=str,
)
def test_what_does_not_go_together_is_told(arguments, said, capsys):
    assert cli.main(["configs", *arguments]) == 1
    assert said in capsys.readouterr().err


def schema(capsys) -> dict:
    return json.loads(printed(capsys, "--schema"))
