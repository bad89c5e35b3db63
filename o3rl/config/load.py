"""Reading a configuration: YAML over the defaults, `key=value` overrides over that.

Unknown keys, wrong types, values out of range and impossible combinations fail here by name, value
and rule, in a second and on a laptop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from o3rl.config.require import noted
from o3rl.config.run import RunConfig


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML at `path` over the defaults, and `key=value` overrides over that.

    Raises ValueError with the file, the key, the value and the rule; FileNotFoundError if `path` is
    not there.
    """
    layers = [layer for _, layer in _layers(path, overrides)]
    try:
        run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), *layers))
    except OmegaConfBaseException as error:
        raise ValueError(_in_words(error, path, overrides)) from error
    assert isinstance(run, RunConfig)
    return run


def examine(
    path: str | Path, overrides: Sequence[str] = ()
) -> tuple[RunConfig | None, tuple[str, ...]]:
    """The run, None where it cannot be made, and all that is wrong: what `load` would raise first,
    what it would raise when that is mended, and so on.

    Raises ValueError where YAML or an override cannot be read at all, FileNotFoundError as `load`.
    """
    problems: list[str] = []
    right: list[Any] = [OmegaConf.structured(RunConfig)]
    for where, layer in _layers(path, overrides):
        for leaf in _leaves(OmegaConf.to_container(layer, resolve=False)):
            try:
                OmegaConf.merge(right[0], leaf)
            except OmegaConfBaseException as error:
                problems.append(_in_words(error, where, ()))
            else:
                right.append(leaf)
    try:
        with noted() as wrong:
            run = OmegaConf.to_object(OmegaConf.merge(*right))
    except OmegaConfBaseException as error:  # an interpolation of what is not there
        return None, (*problems, _in_words(error, path, overrides))
    assert isinstance(run, RunConfig)
    problems += wrong
    return (None if problems else run), tuple(problems)


def as_yaml(run: RunConfig) -> str:
    """The whole configuration, defaults included, as YAML that `load` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(run)))


def _layers(path: str | Path | None, overrides: Sequence[str]) -> list[tuple[str, DictConfig]]:
    """The file and each override, and where it is from."""
    try:
        layers = [] if path is None else [(str(path), _from_file(Path(path)))]
        return layers + [(f"override {item!r}", _from_override(item)) for item in overrides]
    except OmegaConfBaseException as error:  # an interpolation that is none
        raise ValueError(_in_words(error, path, overrides)) from error


def _leaves(values: Any) -> Iterator[dict[str, Any]]:
    """The values one by one, each under its keys."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from ({key: inner} for inner in _leaves(value))
        else:
            yield {key: value}


def _in_words(error: Exception, where: str | Path | None, overrides: Sequence[str]) -> str:
    """Where, which key, what: in one line."""
    key = getattr(error, "full_key", None) or "configuration"
    said = [item for item in overrides if f"{item.split('=')[0]}.".startswith(f"{key}.")]
    where = f"override {said[-1]!r}" if said else where or "the command line"
    return f"{where}: {key}: {str(error).splitlines()[0]}"


def _from_file(path: Path) -> DictConfig:
    if not path.is_file():
        raise FileNotFoundError(
            f"no configuration at {path}; `o3rl configs` lists the shipped ones"
        )
    try:
        layer = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {_in_one_line(error)}") from error
    except OSError as error:  # OmegaConf's word for a file that holds one value, too
        raise ValueError(f"{path} cannot be read: {error}; it must hold key: value") from error
    if not isinstance(layer, DictConfig):
        raise ValueError(f"{path} holds a list; it must hold key: value")
    _check_sections(layer, str(path))
    return layer


def _from_override(item: str) -> DictConfig:
    if "=" not in item:
        raise ValueError(f"override {item!r} must read key=value, such as loop.steps=100")
    key, _, value = item.partition("=")
    try:
        if _is_text(key.split(".")):
            layer = OmegaConf.create()
            OmegaConf.update(layer, key, value)
        else:
            layer = OmegaConf.from_dotlist([item if value else f"{item}''"])
    except YAMLError as error:
        raise ValueError(f"override {item!r} is no YAML: {_in_one_line(error)}") from error
    _check_sections(layer, f"override {item!r}")
    return layer


def _is_text(keys: Sequence[str]) -> bool:
    """Whether the value under `keys` is text, and so whatever is given, not what YAML makes of it:
    `2026_11_30`, `X #2`."""
    kind: Any = RunConfig
    for key in keys:
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(key)
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else None
    return kind is str


def _check_sections(layer: DictConfig, where: str) -> None:
    """A section given as a plain value, which OmegaConf refuses without its name."""
    sections = {each.name for each in fields(RunConfig) if is_dataclass(each.default_factory)}
    for key, value in OmegaConf.to_container(layer, resolve=False).items():  # pyright: ignore
        if key in sections and not isinstance(value, dict):
            raise ValueError(f"{where}: {key} is {value!r}; it must be a section of key: value")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
