"""Shipped configurations are found by name."""

import pytest

from o3rl.config.shipped import find, folder, load_named

SHIPPED = sorted(path.stem for path in folder().glob("*.yaml"))


def test_some_are_shipped():
    assert {"tiny_demo", "tiny_long", "qwen2_5_vl_7b_8gpu", "qwen2_5_vl_7b_8gpu_released"} <= set(
        SHIPPED
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_each_is_found_with_and_without_its_ending_and_loads(name):
    assert find(name) == find(f"{name}.yaml") == folder() / f"{name}.yaml"
    assert load_named(name, ["seed=3"]).seed == 3


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_demo.yaml").write_text("name: mine\n")
    assert load_named("tiny_demo.yaml", []).name == "mine"
    assert load_named("tiny_demo", []).name == "demo"
    assert load_named(str(tmp_path / "tiny_demo.yaml"), []).name == "mine"


@pytest.mark.parametrize("name", ["tiny", "none.yaml", "elsewhere/tiny_demo", ""])
def test_an_unknown_name_lists_what_is_shipped(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        find(name)
    assert [each for each in (repr(name), *SHIPPED) if each not in str(caught.value)] == []


def test_the_nearest_name_is_suggested():
    with pytest.raises(FileNotFoundError, match=r"did you mean 'tiny_demo'\?"):
        find("tinydemo")


def test_the_readme_of_the_folder_names_each():
    words = (folder() / "README.md").read_text()
    assert [name for name in SHIPPED if f"`{name}.yaml`" not in words] == []
