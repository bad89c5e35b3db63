"""Every setting with what it is for, read where it is written: the dataclasses and their comments.

So the reference page, the JSON schema that editors complete from, and what `o3rl configs` prints
cannot tell another story than the code.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from o3rl.config.bounds import Bound
from o3rl.config.run import RunConfig

JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
WIDTH = 100  # columns of a comment line


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One key of a section ("" for the run's own), its type, default, rule and comment."""

    section: str
    name: str
    kind: Any
    default: Any
    bound: Bound | None
    comment: str

    @property
    def words(self) -> str:
        """What it is for and what it may be, in one line; may be empty."""
        choices = f"one of {', '.join(map(str, self.kind))}" if _is_choice(self.kind) else ""
        rule = "" if self.bound is None or self.bound.text else self.bound.rule
        return "; ".join(part for part in (self.comment.removesuffix("."), choices or rule) if part)


def settings() -> list[ConfigField]:
    """All of them, in the order of the configuration."""
    found = [*_of_section("", RunConfig)]
    for name, kind in sections().items():
        found += _of_section(name, kind)
    return found


def sections() -> dict[str, type]:
    """The sections of a run by name."""
    return {n: kind for n, kind in get_type_hints(RunConfig).items() if is_dataclass(kind)}  # pyright: ignore[reportReturnType]


def summary_of(kind: type) -> str:
    """The first line of a section's docstring."""
    return inspect.getdoc(kind).splitlines()[0]  # pyright: ignore[reportOptionalMemberAccess]


def as_markdown() -> str:
    """The reference page: a table a section."""
    lines = [
        "# Settings",
        "",
        "Every key of a configuration, its default, and what it is for. Made from",
        "`o3rl/config` by `o3rl configs --reference`; a test holds this page to it.",
    ]
    tables: dict[str, list[ConfigField]] = {}
    for setting in settings():
        tables.setdefault(setting.section, []).append(setting)
    for section, kept in tables.items():
        kind = sections()[section] if section else RunConfig
        lines += ["", f"## {section or 'The run'}", "", summary_of(kind), ""]
        lines += ["| key | default | |", "|---|---|---|"]
        for each in kept:
            key = f"{section}.{each.name}" if section else each.name
            words = each.words.replace("|", "\\|")
            lines.append(f"| `{key}` | `{_in_yaml(each.default)}` | {words} |")
    return "\n".join(lines) + "\n"


def as_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a configuration file. Any value may be an interpolation."""
    properties: dict[str, Any] = {}
    for setting in settings():
        here = properties
        if setting.section:
            kind = sections()[setting.section]
            section = properties.setdefault(
                setting.section,
                {
                    "type": "object",
                    "description": summary_of(kind),
                    "additionalProperties": False,
                    "properties": {},
                },
            )
            here = section["properties"]
        here[setting.name] = _schema_of(setting)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A configuration of o3rl",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def as_commented_yaml(run: RunConfig) -> str:
    """The whole configuration, defaults included, each value under what it is for."""
    values, lines = asdict(run), []
    comments = {(each.section, each.name): each.words for each in settings()}
    for name, value in values.items():
        if name not in sections():
            lines += _commented(comments["", name], {name: value}, "")
            continue
        lines += ["", *_comment(summary_of(sections()[name]), ""), f"{name}:"]
        for key, inner in value.items():
            lines += _commented(comments[name, key], {key: inner}, "  ")
    return "\n".join(lines).lstrip("\n") + "\n"


def _of_section(section: str, kind: type) -> Iterator[ConfigField]:
    hints, comments = get_type_hints(kind), _comments(kind)
    for each in fields(kind):  # pyright: ignore[reportArgumentType]
        if is_dataclass(hints[each.name]):
            continue
        default = each.default if each.default_factory is MISSING else each.default_factory()
        bound = each.metadata.get("bound")
        yield ConfigField(section, each.name, hints[each.name], default, bound, comments[each.name])


def _comments(kind: type) -> dict[str, str]:
    """By field: the comment lines above it and that behind it."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    [body] = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    found: dict[str, str] = {}
    for node in body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        above, number = [], node.lineno - 2
        while lines[number].strip().startswith("#"):
            above.insert(0, lines[number].strip().lstrip("# "))
            number -= 1
        assert node.end_lineno is not None
        last = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        behind = last.strip().lstrip("# ")
        found[node.target.id] = " ".join([*above, behind]).strip()
    return found


def _is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _schema_of(setting: ConfigField) -> dict[str, Any]:
    described = {"description": setting.words} if setting.words else {}
    return {
        "default": _plain(setting.default),
        **described,
        "anyOf": [_type_of(setting.kind, setting.bound), {"type": "string", "pattern": r"\$\{"}],
    }


def _type_of(kind: Any, bound: Bound | None = None) -> dict[str, Any]:
    if _is_choice(kind):
        return {"enum": [str(each) for each in kind]}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return {"anyOf": [_type_of(each) for each in inner]}
    if kind is type(None):
        return {"type": "null"}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_of(inner[1])}
    if origin is list:
        return {"type": "array", "items": _type_of(inner[0])}
    found: dict[str, Any] = {"type": JSON_TYPES[kind]}
    if bound is None:
        return found
    if bound.among:
        return {"enum": list(bound.among)}
    if bound.text:
        return found | {"minLength": 1}
    limits = {
        "minimum": bound.least,
        "exclusiveMinimum": bound.above,
        "maximum": bound.most,
        "exclusiveMaximum": bound.below,
    }
    return found | {name: limit for name, limit in limits.items() if limit is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, StrEnum) else value


def _in_yaml(value: Any) -> str:
    return yaml.safe_dump(_plain(value), default_flow_style=True).split("\n...")[0].strip()


def _commented(words: str, value: dict[str, Any], indent: str) -> list[str]:
    written = yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=WIDTH)
    return [*_comment(words, indent), *textwrap.indent(written, indent).splitlines()]


def _comment(words: str, indent: str) -> list[str]:
    mark = f"{indent}# "
    return textwrap.wrap(
        words, WIDTH, initial_indent=mark, subsequent_indent=mark, break_on_hyphens=False
    )
