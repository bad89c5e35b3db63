"""What README and docs show is there: commands parse, files and links exist, settings load."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cluster.commands import cli
from o3rl.config import load
from o3rl.config.shipped import find

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "configs/*.md")
    for path in ROOT.glob(pattern)
)
FOLDERS = "o3rl|rewards|actors|learners|cluster|configs|tests|docs|\\.ci|\\.github"
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def words(page: Path) -> str:
    return (ROOT / page).read_text()


def commands(text: str) -> list[str]:
    """The arguments of each line `o3rl …`, without those that stand for any command."""
    found = [
        shlex.split(match.group(1), comments=True)
        for match in re.finditer(r"^\s*(?:\.venv/bin/)?o3rl ([a-z-].*)", text, re.MULTILINE)
    ]
    return [shlex.join(words) for words in found if "…" not in words]


def shown() -> list[str]:
    """Commands in code blocks: whole ones."""
    blocks = [block for page in PAGES for block in re.findall(BLOCK, words(page))]
    return sorted(set(commands("\n".join(blocks).replace("\\\n", " "))))


def named() -> list[str]:
    """Commands between backticks: maybe without their arguments."""
    prose = [re.sub(r"```.*?```", "", words(page), flags=re.DOTALL) for page in PAGES]
    inline = [part for text in prose for part in re.findall(r"`([^`\n]+)`", text)]
    return sorted(set(commands("\n".join(inline))))


def parsed(line: str):
    """The options of a command line; usage errors end the test."""
    options, rest = cli._parser().parse_known_args(shlex.split(line))
    if rest:
        cli._add_overrides(options, rest)
    assert "handler" in options, f"o3rl {line} is no whole command"
    return options


def test_the_commands_that_matter_are_shown():
    found = {line.split()[0] for line in (*shown(), *named())}
    assert {"data", "sft", "train", "evaluate", "answer", "score", "configs", "doctor"} <= found
    assert {"make demo", "make test"} <= set(re.findall(r"make \w+", words(Path("README.md"))))


@pytest.mark.parametrize("line", shown())
def test_every_command_shown_is_one(line):
    options = parsed(line)
    config = getattr(options, "config", None)
    if config == "runs/demo/demo.yaml":  # what `make demo` writes, resolved
        config = "tiny_demo"
    if config and config != "CONFIG":
        load(find(str(ROOT / config) if "/" in config else config), options.overrides)


@pytest.mark.parametrize("line", named())
def test_every_command_named_has_help(line, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*shlex.split(line), "--help"])
    assert caught.value.code == 0
    assert f"usage: o3rl {line.split()[0]}" in capsys.readouterr().out


def test_the_commands_of_the_help_are_ones(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    epilog = capsys.readouterr().out.split("from nothing", 1)[1]
    for line in re.findall(r"o3rl ([^,\n]+)", epilog):
        parsed(line)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", words(page))
    inside = [link for link in links if "://" not in link]
    missing = [link for link in inside if not ((ROOT / page).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_named_exists(page):
    names = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", words(page))
    if page.parts[0] == "configs":
        names += [f"configs/{name}" for name in re.findall(r"`([\w.]+\.yaml)`", words(page))]
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_make_target_is_one(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    code = re.findall(r"```bash\n.*?```|`[^`\n]+`", words(page), re.DOTALL)
    named = {name for part in code for name in re.findall(r"\bmake ([a-z]+)", part)}
    assert named <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_module_that_is_started_by_hand_is_there(page):
    modules = re.findall(r"\bpython -m (tests\.[\w.]+)", words(page))
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


def test_settings_named_in_prose_exist():
    from o3rl.config import RunConfig

    for page in PAGES:
        for section, field in re.findall(r"`(\w+)\.(\w+)(?:=[^`]*)?`", words(page)):
            if hasattr(RunConfig(), section):
                assert hasattr(getattr(RunConfig(), section), field), f"{page}: {section}.{field}"


def test_functions_named_in_the_architecture_exist():
    """`Class.method` and `function` beside a link to a file of the project are in its folders."""
    source = "\n".join(
        path.read_text()
        for folder in ("o3rl", "rewards", "actors", "learners", "cluster")
        for path in (ROOT / folder).rglob("*.py")
    )
    page = re.sub(r"```.*?```", "", words(Path("docs/architecture.md")), flags=re.DOTALL)
    named = set(re.findall(r"`([A-Z]\w+)(?:\.(\w+))?`", page))
    assert named
    for owner, method in named:
        assert re.search(rf"class {owner}\b", source), owner
        assert not method or re.search(rf"def {method}\b", source), f"{owner}.{method}"


def test_the_gate_is_the_same_everywhere():
    gate = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in gate
    assert "make test" in gate
    assert "make test" in (ROOT / ".github/workflows/test.yml").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], timeout=30).returncode == 0
