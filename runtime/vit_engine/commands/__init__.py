"""`vit-infer`, `vit-eval`, `vit-search`, `vit-serve`, `vit-doctor`, which nothing imports."""

from functools import partial

from vit_engine.cli import exit_codes

start_infer = partial(exit_codes.start, "vit-infer", "vit_engine.commands.infer")
start_eval = partial(exit_codes.start, "vit-eval", "vit_engine.commands.eval")
start_search = partial(exit_codes.start, "vit-search", "vit_engine.commands.search")
start_doctor = partial(exit_codes.start, "vit-doctor", "vit_engine.commands.doctor")
start_serve = partial(exit_codes.start, "vit-serve", "vit_engine.commands.serve")
