"""zentorch: AMD's extension of PyTorch for its own CPUs, as a backend of torch.compile."""

from comparison.contenders import pytorch
from comparison.job import Contender, Job


def load(job: Job) -> Contender:
    """Load and compile with its backend."""
    import zentorch  # which registers the backend

    found = pytorch.contender(job, job.options["precision"], "default", backend="zentorch")
    found.about["runtime"] += f", zentorch {zentorch.__version__}"
    return found
