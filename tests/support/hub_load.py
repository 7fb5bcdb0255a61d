"""What vit-export does with a model of a hub, before it loads PyTorch."""

import argparse
import ctypes
import resource
import sys
import time

from vit_export.checkpoints.checkpoint import load


def main() -> int:
    """Load a model, in tests that would not wait for retries."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.05))
    sys.modules["torch"] = None  # type: ignore[assignment] # ModelScope's client would load it
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--revision")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--under", choices=LIMITS)
    options = vars(parser.parse_args())
    if limit := options.pop("under"):
        LIMITS[limit]()
    found = load(**options)
    sys.stdout.write(f"{found.model} {found.revision}\n")
    return 0


def _give_up_root() -> None:
    """Give up what lets root write everywhere: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None)
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(head, sets)
    sets[0] &= ~0b110  # of those in effect
    libc.capset(head, sets)


LIMITS = {
    "no root": _give_up_root,
    "small files": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)),
}
