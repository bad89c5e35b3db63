"""The pieces that the parsers of all commands are made of."""

import argparse


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
