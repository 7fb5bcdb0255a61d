"""A connection to Ray, or a Ray of this machine, and what it has room for."""

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vit_engine.errors import MachineError, VitError, one_line
from vit_engine.machine.installation import pip_install
from vit_engine.machine.processor import usable_cores
from vit_engine.options import DEFAULTS, EngineOptions

LOCAL = "local"
"""The address that starts a Ray here, for as long as the run takes."""

_REACHED = 10.0  # seconds within which an address must answer

_ADVICE = re.compile(r"\n?Failed to .* after \d+/\d+ attempts \(total backoff.*", re.DOTALL)
"""What Ray Data adds to an error's text: how often it tried, and how to make it try again."""


@dataclass(frozen=True)
class Workers:
    """The classifiers that are asked for; what is None is left to the cluster.

    At most `actors` of them: by default one for each GPU, without GPUs one a node. Each has `gpus`
    GPUs (a fraction shares one), or as many CPUs as `engine` has threads: by default half a node's,
    here all.
    """

    engine: EngineOptions = DEFAULTS
    actors: int | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Capacity:
    """The classifiers that a cluster has room for: how many, and the resources of each."""

    actors: int
    cpus: int
    gpus: float
    threads: int | None


@contextlib.contextmanager
def connected(address: str | None, workers: Workers) -> Iterator[Capacity]:
    """Connect to Ray at an address, by default $RAY_ADDRESS or one that is started here and ended.

    MachineError where there is no Ray, or none with room; VitError in place of Ray's own errors.
    """
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its errors come as exceptions
    if address == LOCAL:
        # It listens on the machine's address, and whoever gets in runs code here: Ray asks for a
        # token then, which would be written to the home folder if there were none.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.data
        from ray.data.exceptions import RayDataUserCodeException, SystemException
        from ray.exceptions import AuthenticationError, RayError
    except ImportError as e:
        raise MachineError(f"Ray is not installed; {pip_install('ray')}") from e
    terminate = signal.getsignal(signal.SIGTERM)
    started = not ray.is_initialized()
    try:
        if started:
            try:
                _init(ray, address, workers)
            except (OSError, RuntimeError, ValueError, AuthenticationError) as e:
                raise MachineError(f"cannot connect to Ray at {address}: {_last_line(e)}") from e
            signal.signal(signal.SIGTERM, terminate)  # Ray's own would exit with another code
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors too are exceptions
        yield _capacity(ray.nodes(), workers, here=address == LOCAL)
    except (RayError, RayDataUserCodeException, SystemException) as e:
        raise _told(e) from e
    finally:
        if started:
            ray.shutdown()


def _init(ray: Any, address: str, workers: Workers) -> None:
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHED):
            pass  # Ray itself would go on trying for minutes
    here: dict[str, Any] = {}
    if address == LOCAL:
        # Ray counts tasks, not load: a CPU for each decoder, those of the classifiers, and one for
        # the filter of a resumed run, which waits most of the time.
        classifiers = (workers.actors or 1) * (workers.engine.threads or usable_cores())
        here = {"num_cpus": usable_cores() + classifiers + 1, "include_dashboard": False}
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **here)


def _capacity(nodes: list[dict[str, Any]], workers: Workers, *, here: bool) -> Capacity:
    """Refuse a cluster on which the run would wait for ever."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0) for node in alive) for kind in ("CPU", "GPU"))
    a_gpu = workers.gpus
    if a_gpu is None:
        a_gpu = 1 if gpus and workers.engine.may_use_gpu else 0
    if a_gpu:
        a_cpu, threads = 1, workers.engine.threads
    else:
        smallest = min((int(node["CPU"]) for node in alive if node.get("CPU")), default=0)
        threads = workers.engine.threads or (usable_cores() if here else max(1, smallest // 2))
        a_cpu = threads
    if not any(node.get("CPU", 0) >= a_cpu and node.get("GPU", 0) >= a_gpu for node in alive):
        raise MachineError(
            f"no node of the cluster has {a_cpu} CPUs and {a_gpu:g} GPUs, as a classifier needs; "
            "lower --threads or --ray-gpus, or add such a node"
        )
    if cpus < a_cpu + 2:
        raise MachineError(
            f"the cluster has {cpus:g} CPUs; {a_cpu} for a classifier, one to decode and one to "
            f"read are {a_cpu + 2}: lower --threads, or add a node"
        )
    at_work = sum(node.get("CPU", 0) >= a_cpu for node in alive)  # a head often does none
    actors = workers.actors or int(gpus / a_gpu if a_gpu else at_work)
    return Capacity(max(1, actors), a_cpu, a_gpu, threads)


def _told(e: BaseException) -> VitError:
    """Return the error of a node that Ray has wrapped: ours as it is, another in words."""
    wrapped = e
    while isinstance(cause := getattr(wrapped, "cause", None) or wrapped.__cause__, Exception):
        wrapped = cause
    wrapped.args = tuple(_ADVICE.sub("", a) if isinstance(a, str) else a for a in wrapped.args)
    if isinstance(wrapped, VitError):
        return wrapped
    kind = "" if wrapped is e else f"{type(wrapped).__name__}: "
    return VitError(
        f"the Ray job failed: {kind}{_last_line(wrapped)}; the rows written so far are kept, "
        "continue with --resume"
    )


def _last_line(e: BaseException) -> str:
    """Return what a traceback in an error's text ends with."""
    return one_line(str(e).strip().rpartition("\n")[2] or type(e).__name__, 500)
