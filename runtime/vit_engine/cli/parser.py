"""Command lines: a parser that refuses a mistake in one line, and numbers that have bounds."""

import argparse
import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import vit_engine
from vit_engine.errors import UsageError

LARGEST = 2**31 - 1
"""The largest whole number an option takes: what a C int holds, which it may become."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A parser with --version; a mistake ends the command with one line and exit code 2."""

    def __init__(self, prog: str, *, description: str, epilog: str) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog)
        self._default_model = ""
        self.add_argument(
            "--version",
            action=_ShowVersion,
            nargs=0,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help="print the version and stop",
        )

    def add_model(self, *, default: str, message: str) -> None:
        """Add a model that is named either by itself or with -m."""
        self.add_argument("named", nargs="?", metavar="MODEL", help=message)
        self.add_argument("-m", "--model", metavar="MODEL", help="the same")
        self._default_model = default

    def parse(self, before: Iterable[str] = ()) -> argparse.Namespace:
        """Return the arguments that this process was started with, after some `before` them."""
        # Of options like -0 argparse concludes that the -3 in "--threads -3" must be one, too.
        self._has_negative_number_optionals.clear()
        line = [*before, *sys.argv[1:]]
        arguments, rest = self.parse_known_args(line)
        # What is left may be a positional behind options; --help works in the first way alone.
        arguments = self.parse_intermixed_args(line) if rest else arguments
        if named := getattr(arguments, "named", None):
            if arguments.model:
                raise UsageError(f"two models are given, {named} and {arguments.model}; name one")
            arguments.model = named
        elif self._default_model:
            arguments.model = arguments.model or self._default_model
        return arguments

    def error(self, message: str) -> NoReturn:
        """End the process with the message on stderr."""
        unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
        options = list(self._option_string_actions)
        for near in difflib.get_close_matches(unknown[1], options, n=1) if unknown else ():
            message += f"; did you mean {near}?"
        self.exit(
            UsageError.exit_code,
            f"{self.prog}: {message}; '{self.prog} --help' lists the options\n",
        )


def number(expected: str, *, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """Return the type of an option that takes a number; `expected` describes which."""

    def parsed(text: str) -> float:
        with contextlib.suppress(ValueError):
            if accepts(found := float(text)):
                return found
        raise _refused(text, expected)

    return parsed


def whole_number(what: str, *, minimum: int) -> Callable[[str], int]:
    """Return the type of an option that takes "a whole number of images", `minimum` or more."""

    def parsed(text: str) -> int:
        with contextlib.suppress(ValueError):
            if minimum <= (found := int(text)) <= LARGEST:
                return found
        raise _refused(text, f"{what}, {minimum} or more, {LARGEST:,} at most")

    return parsed


def seconds(longest: int) -> Callable[[str], float]:
    """Return the type of an option that takes seconds, more than 0 and at most `longest`."""
    expected = f"a number of seconds above 0, {longest:,} at most"
    return number(expected, accepts=lambda found: 0 < found <= longest)


def local_path(text: str) -> Path:
    """Return the path that an option takes; argparse's error for a URL."""
    if _URL.match(text):
        raise _refused(text, "a path on this machine, but a URL")
    return Path(text)


class _ShowVersion(argparse.Action):
    """Prints "vit-infer 0.2.0"; looks the version up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(f"{parser.prog} {vit_engine.__version__}\n")
        parser.exit()


def _refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} is not {expected}")
