"""Memory that processes share by a descriptor."""

import os
import tempfile

from vit_engine.machine.worker import above_standard


def memory_file(name: str) -> int:
    """Return the descriptor of an empty file in memory, or of one without a name on disk.

    The latter where the system has no such memory: macOS, or a filter of system calls.
    """
    try:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    return above_standard(descriptor)
