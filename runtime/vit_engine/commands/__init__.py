"""`vit-infer`, `vit-eval`, `vit-search`, `vit-serve`, `vit-doctor`, which nothing imports."""

from vit_engine.cli import exit_codes


def start_infer() -> int:
    """Run vit-infer; returns its exit code."""
    return exit_codes.start("vit-infer", "vit_engine.commands.infer")


def start_eval() -> int:
    """Run vit-eval; returns its exit code."""
    return exit_codes.start("vit-eval", "vit_engine.commands.eval")


def start_search() -> int:
    """Run vit-search; returns its exit code."""
    return exit_codes.start("vit-search", "vit_engine.commands.search")


def start_doctor() -> int:
    """Run vit-doctor; returns its exit code."""
    return exit_codes.start("vit-doctor", "vit_engine.commands.doctor")


def start_serve() -> int:
    """Run vit-serve; returns its exit code."""
    return exit_codes.start("vit-serve", "vit_engine.commands.serve")
