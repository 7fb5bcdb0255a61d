"""vit-serve: labels images over HTTP. Each option may also come from the environment."""

import argparse
import difflib
import ipaddress
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from vit_engine.artefact.metadata import DEFAULT_MODEL
from vit_engine.cli import exit_codes
from vit_engine.cli.parser import Parser, seconds, whole_number
from vit_engine.commands.engine_options import add_engine_options, engine_settings
from vit_engine.errors import MachineError, UsageError, printable
from vit_engine.machine.installation import pip_install
from vit_engine.server.core.settings import SETTINGS, Settings

PREFIX = "VIT_SERVE_"
"""Of environment variables: VIT_SERVE_PORT is --port, VIT_SERVE_MODELS the models."""

_MIB = 2**20


def command_line() -> Parser:
    """Return the parser of vit-serve's command line."""
    parser = Parser(
        "vit-serve",
        description="Label images over HTTP with models that vit-export wrote.",
        epilog="each option is also read from the environment, as in VIT_SERVE_PORT=9000 or "
        "VIT_SERVE_MODELS='a.onnx b.onnx'; exit codes: 0 done, after SIGTERM; 1 unforeseen; 2 bad "
        "usage or artefact; 4 provider or address not available; 130 interrupted",
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"artefact, NAME=FILE, or 'demo'; the first is the default (default {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "-m", "--model", action="append", default=[], metavar="MODEL", help="the same"
    )
    add = parser.add_argument_group("address").add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default %(default)s)")
    add(
        "--port",
        type=whole_number("the number of a port", minimum=0),
        default=8000,
        metavar="N",
        help="port to listen at, 0 for any (default %(default)s)",
    )
    add(
        "--grpc-port",
        type=whole_number("the number of a port", minimum=0),
        metavar="N",
        help="also serve the Open Inference Protocol by gRPC there, 0 for any (extra grpc)",
    )
    add(
        "--workers",
        type=_workers,
        default=1,
        metavar="N",
        help="processes that take requests, or 'auto' by cores and provider (default %(default)s)",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name that a proxy passes on in the header Host; without keys, a server at a loopback "
        "address answers only to local names and these",
    )
    add(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin of web pages that may call",
    )
    add("--api-key-file", type=Path, metavar="FILE", help="file of keys, one a line")
    add("--access-log", action="store_true", help="a line of JSON on stdout for each request")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--text",
        metavar="FILE",
        help="text model of vit-export --text: /v1/embeddings then also takes texts",
    )
    add_engine_options(model)
    limits = parser.add_argument_group("limits")

    def size(name: str, default: float, what: str, message: str) -> None:
        limits.add_argument(
            name,
            type=whole_number(f"a whole number of {what}", minimum=1),
            default=default,
            metavar="N",
            help=f"{message} (default %(default)s)",
        )

    def time(name: str, default: float, message: str) -> None:
        limits.add_argument(
            name,
            type=seconds(86_400),
            default=default,
            metavar="S",
            help=f"seconds {message} (default %(default)g)",
        )

    size("--max-body", SETTINGS.max_body // _MIB, "MiB", "MiB of one body")
    size("--max-held", SETTINGS.max_held // _MIB, "MiB", "MiB of all bodies at once")
    size("--max-pixels", SETTINGS.max_pixels, "pixels", "pixels of an image")
    size("--max-images", SETTINGS.max_images, "images", "images that may wait, for each model")
    time("--decode-timeout", SETTINGS.decode_time, "to decode an image")
    time("--header-timeout", SETTINGS.header_time, "to send the head of a request")
    time("--body-timeout", SETTINGS.body_time, "to send its body")
    time("--keep-alive", SETTINGS.keep_alive, "that a connection may idle")
    time("--deadline", SETTINGS.deadline, "until a request is answered, or refused")
    time("--drain", SETTINGS.drain, "to keep answering after SIGTERM, while not ready")
    return parser


def _workers(text: str) -> int | None:
    return None if text == "auto" else whole_number("a number of processes", minimum=1)(text)


def parsed(parser: Parser, environment: Mapping[str, str]) -> argparse.Namespace:
    """Return the arguments of the command line, before them those of the environment."""
    known = {
        action.dest.upper(): action
        for action in parser._actions
        if action.dest not in ("help", "model", argparse.SUPPRESS)
    }
    given = {n.removeprefix(PREFIX): v for n, v in environment.items() if n.startswith(PREFIX)}
    for name in sorted(given.keys() - known):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "it stands for no option"
        parser.error(f"the environment has {PREFIX}{printable(name)}: {hint}")
    options = []
    for name, action in known.items():
        value = given.get(name)
        if value is None or not action.option_strings:
            continue
        option = action.option_strings[-1]
        if action.nargs == 0:
            if value.lower() not in ("", "0", "1", "false", "true"):
                parser.error(f"{PREFIX}{name} is {value!r}, it must be 1 or 0")
            options += [option] if value.lower() in ("1", "true") else []
        else:
            parts = shlex.split(value) if isinstance(action.default, list) else [value]
            options += [f"{option}={part}" for part in parts]
    arguments = parser.parse(options)
    arguments.models += arguments.model
    if not arguments.models:
        arguments.models = shlex.split(given.get("MODELS", "")) or [DEFAULT_MODEL]
    return arguments


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Return what the options say of limits and keys; UsageError for a file without keys."""
    keys = _keys(arguments.api_key_file)
    hosts = None
    if arguments.allow_host or (not keys and _is_loopback(arguments.host)):
        hosts = (arguments.host, *arguments.allow_host)
    return Settings(
        max_body=arguments.max_body * _MIB,
        max_held=max(arguments.max_held, arguments.max_body) * _MIB,
        max_pixels=arguments.max_pixels,
        max_images=arguments.max_images,
        decode_time=arguments.decode_timeout,
        header_time=arguments.header_timeout,
        body_time=arguments.body_timeout,
        keep_alive=arguments.keep_alive,
        deadline=arguments.deadline,
        drain=arguments.drain,
        origins=tuple(arguments.cors),
        keys=keys,
        hosts=hosts,
        log_requests=arguments.access_log,
    )


def _keys(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    name = printable(os.fspath(path))
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"--api-key-file {name}: cannot be read ({e})") from e
    found = {number: line.strip() for number, line in enumerate(lines, 1)}
    keys = {number: line for number, line in found.items() if line and not line.startswith("#")}
    for number, key in keys.items():
        # HTTP has one way to send these, and clients have several to send others.
        if not (key.isascii() and key.isprintable()):
            raise UsageError(
                f"--api-key-file {name}: line {number} has a key with characters beyond printable "
                "ASCII, which clients send in different ways; choose another key"
            )
    if not keys:
        raise UsageError(f"--api-key-file {name}: has no key in it; write one a line")
    return tuple(keys.values())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def main() -> int:
    """Run vit-serve; returns the exit code."""
    parser = command_line()
    arguments = parsed(parser, os.environ)
    try:
        from vit_engine.server.core.service import models_from_arguments
        from vit_engine.server.fronts.front import Served, log_to_stderr
        from vit_engine.server.fronts.parent import serve_with_fronts
        from vit_engine.server.http import listener
        from vit_engine.server.http.app import application

        if arguments.grpc_port is not None:
            from vit_engine.server.rpc.rpc_server import RpcServer
    except ModuleNotFoundError as e:
        is_rpc = str(e.name).partition(".")[0] in ("google", "grpc", "tritonclient")
        extra = pip_install("grpc" if is_rpc else "serve")
        raise MachineError(f"vit-serve needs {e.name}, which is not installed: {extra}") from e
    log_to_stderr()
    settings, options = settings_from(arguments), engine_settings(arguments)
    beside, before = None, ""
    if arguments.grpc_port is not None:
        keeping = listener.claimed(arguments.host, arguments.grpc_port)
        beside = RpcServer(*keeping.getsockname()[:2])
        before = f"gRPC at {beside}, "

    def tell(message: str) -> None:
        sys.stderr.write(f"vit-serve: {before}{message}\n")

    if arguments.workers != 1:
        models = models_from_arguments(arguments.models)
        served = Served(models, settings, options, arguments.text, beside)
        return serve_with_fronts(served, arguments.host, arguments.port, arguments.workers, tell)
    app = application(
        *arguments.models, settings=settings, options=options, text=arguments.text, beside=beside
    )
    # An address that is taken is told at once, before the models, which take seconds.
    with listener.bound(arguments.host, arguments.port) as listening:
        app.service.open()
        names = ", ".join(f"{name} on {on}" for name, on in app.service.providers.items())
        return listener.serve(app, listening, lambda message: tell(f"{names}, {message}"))


if __name__ == "__main__":
    sys.exit(exit_codes.start("vit-serve", "vit_engine.commands.serve"))
