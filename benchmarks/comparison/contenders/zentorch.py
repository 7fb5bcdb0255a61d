"""zentorch: AMD's extension of PyTorch for its own CPUs, as a backend of torch.compile."""

from importlib.util import find_spec

from comparison.contenders import pytorch
from comparison.job import AbsentError, Contender, Job


def load(job: Job) -> Contender:
    """Load and compile with its backend; it needs the PyTorch that it was built for."""
    if not find_spec("zentorch"):
        raise AbsentError("zentorch is not in the peers' environment; it asks for its own PyTorch")
    import zentorch  # which registers the backend

    found = pytorch.contender(job, job.options["precision"], "default", backend="zentorch")
    found.about["runtime"] += f", zentorch {zentorch.__version__}"
    return found
