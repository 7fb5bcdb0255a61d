"""The command lines: arguments, progress, exit codes. Nothing imports a command."""

from vit_engine.cli import ending


def start_infer() -> int:
    """Run vit-infer; returns its exit code."""
    return ending.start("vit_engine.commands.infer")


def start_doctor() -> int:
    """Run vit-doctor; returns its exit code."""
    return ending.start("vit_engine.commands.doctor")


def start_serve() -> int:
    """Run vit-serve; returns its exit code."""
    return ending.start("vit_engine.commands.serve")
