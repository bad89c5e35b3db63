"""The pieces that the parsers of all commands are made of."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from o3rl.suggestion import suggestion


class CommandParser(argparse.ArgumentParser):
    """No abbreviated flags; what is nearly a command, a choice or a flag is told which."""

    def __init__(self, *arguments: Any, **options: Any):
        self.flags: list[str] = []
        super().__init__(*arguments, allow_abbrev=False, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As argparse's; the flags are kept to suggest from."""
        self.flags += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        """Usage, and one sentence; exit code 2."""
        wrong = re.match(r"argument (.*): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong:
            known = re.findall(r"'([^']*)'", wrong[3])
            message = f"argument {wrong[1]}: no {wrong[2]!r}{suggestion(wrong[2], known)}"
            message += f"; there are {', '.join(known)}"
        super().error(message)

    def error_of_unknown(self, items: Sequence[str]) -> NoReturn:
        """What is neither a flag nor an argument here."""
        words = [f"{item}{suggestion(item.partition('=')[0], self.flags)}" for item in items]
        self.error(f"unrecognized arguments: {' '.join(words)}")


class Commands:
    """The top commands in groups, which argparse has not: each listed under its group's title."""

    def __init__(self, subparsers: Any):
        self._subparsers = subparsers
        self._groups: list[tuple[str, list[tuple[str, str]]]] = []

    def group(self, title: str) -> None:
        """What is added from now on is of this group."""
        self._groups.append((title, []))

    def add_parser(self, name: str, *, help: str, **options: Any) -> CommandParser:  # as argparse's
        """A command with a line of help."""
        self._groups[-1][1].append((name, help))
        return self._subparsers.add_parser(name, **options)

    def listed(self, width: int = 14) -> str:
        """All of them, group by group."""
        lines: list[str] = []
        for title, kept in self._groups:
            lines += [f"{title}:", *(f"  {name:<{width}}{words}" for name, words in kept), ""]
        return "\n".join(lines)


def add_command(commands, name: str, handler: str, words: str) -> argparse.ArgumentParser:
    """The parser of one command; `handler` is `module:function`, imported when it is run."""
    parser = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
    parser.set_defaults(handler=handler, parser=parser)
    return parser


def takes_config(parser: argparse.ArgumentParser) -> None:
    """CONFIG and what goes on top of it."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file or a shipped name")
    takes_overrides(parser)


def takes_overrides(parser: argparse.ArgumentParser) -> None:
    """key=value, as often as wanted."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # else argparse calls it required
        metavar="key=value",
        help="for instance loop.steps=100",
    )


def takes_resume(parser: argparse.ArgumentParser) -> None:
    """--resume."""
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in the run's folder"
    )
