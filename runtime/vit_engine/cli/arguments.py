"""Command lines: a parser that refuses a mistake in one line, and numbers that have bounds."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import vit_engine
from vit_engine.errors import UsageError

LARGEST = 2**31 - 1
"""The largest whole number an option takes: what a C int holds, which it may become."""

_OPTION = re.compile(r"-[A-Za-z]|--[^=]+")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NEGATIVE = re.compile(r"-[0-9.]+(e[0-9]+)?%?")


class Parser(argparse.ArgumentParser):
    """A parser with --version; a mistake ends the command with one line and exit code 2."""

    def __init__(self, prog: str, *, description: str, epilog: str) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog)
        self.add_argument(
            "--version",
            action=_ShowVersion,
            nargs=0,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help="print the version and stop",
        )

    def parse(self, before: Iterable[str] = ()) -> argparse.Namespace:
        """Return the arguments that this process was started with, after some `before` them."""
        return self.parse_args(self._with_values([*before, *sys.argv[1:]]))

    def error(self, message: str) -> NoReturn:
        """End the process with the message on stderr."""
        self.exit(
            UsageError.exit_code,
            f"{self.prog}: {message}; '{self.prog} --help' lists the options\n",
        )

    def _with_values(self, line: Iterable[str]) -> list[str]:
        """Join "--threads", "-3" to "--threads=-3", so that the number is what is refused.

        Argparse would take -3 for an option, since vit-infer has one called -0.
        """
        joined: list[str] = []
        for word in line:
            before = joined[-1] if joined else ""
            if _NEGATIVE.fullmatch(word) and word != "-0" and _OPTION.fullmatch(before):
                joined[-1] = f"{before}{'=' if before.startswith('--') else ''}{word}"
            else:
                joined.append(word)
        return joined


def whole_number(what: str, *, least: int) -> Callable[[str], int]:
    """Return the type of an option that takes "a whole number of images", `least` or more."""

    def parsed(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            raise _refused(text, f"{what}, {least} or more") from None
        if found > LARGEST:
            raise _refused(text, f"{what}, {LARGEST:,} at most")
        if found < least:
            raise _refused(text, f"{what}, {least} or more")
        return found

    return parsed


def number(expected: str, *, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """Return the type of an option that takes a number; `expected` says in words which."""

    def parsed(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            raise _refused(text, expected) from None
        if not accepts(found):
            raise _refused(text, expected)
        return found

    return parsed


def local_path(text: str) -> Path:
    """Return the path that an option takes; argparse's error for a URL, of which none is one."""
    if _SCHEME.match(text):
        raise _refused(text, "a path on this machine, but a URL")
    return Path(text)


class _ShowVersion(argparse.Action):
    """Prints "vit-infer 0.2.0"; looks the version up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(f"{parser.prog} {vit_engine.__version__}\n")
        parser.exit()


def _refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} is not {expected}")
