"""vit-serve: labels images over HTTP."""

import logging
import os
import sys

from vit_engine.cli import exit_codes
from vit_engine.commands import serve_options
from vit_engine.commands.engine_options import engine_settings
from vit_engine.errors import MachineError
from vit_engine.machine.installation import pip_install


def main() -> int:
    """Run vit-serve; returns the exit code."""
    parser = serve_options.command_line()
    arguments = serve_options.parsed(parser, os.environ)
    try:
        from vit_engine.server.http import listener
        from vit_engine.server.http.app import application
    except ModuleNotFoundError as e:
        raise MachineError(
            f"vit-serve needs {e.name}, which is not installed: {pip_install('serve')}"
        ) from e
    logging.basicConfig(format="vit-serve: %(message)s", stream=sys.stderr)
    for name in ("uvicorn", "python_multipart"):  # which tell of every malformed request
        logging.getLogger(name).setLevel(logging.ERROR)
    app = application(
        *arguments.models,
        settings=serve_options.settings_from(arguments),
        options=engine_settings(arguments),
        text=arguments.text,
    )
    # An address that is taken is told at once, before the models, which take seconds.
    with listener.bound(arguments.host, arguments.port) as listening:
        app.service.open()
        models = ", ".join(
            f"{name} on {scheduler.engine.provider}"
            for name, scheduler in app.service.schedulers.items()
        )
        return listener.serve(
            app, listening, lambda message: sys.stderr.write(f"vit-serve: {models}, {message}\n")
        )


if __name__ == "__main__":
    sys.exit(exit_codes.start("vit-serve", "vit_engine.commands.serve"))
