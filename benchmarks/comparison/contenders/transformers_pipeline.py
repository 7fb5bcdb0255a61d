"""transformers' own pipeline, from files to labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import Job, versions_of


def load(job: Job) -> "TransformersPipeline":
    """Load the checkpoint as `pipeline("image-classification")` does."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(job.threads)
    processor = transformers.AutoImageProcessor.from_pretrained(
        job.model, local_files_only=True, backend="pil"
    )
    pipe = transformers.pipeline(
        "image-classification", job.model, image_processor=processor, device=job.device
    )
    return TransformersPipeline(job, pipe, versions_of(torch, transformers))


class TransformersPipeline:
    """One call from paths to labels."""

    takes = "float32"

    def __init__(self, job: Job, pipe: Any, runtime: str) -> None:
        self.job, self.pipe, self.runtime = job, pipe, runtime

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of the pipeline's model."""
        import torch

        with torch.inference_mode():
            logits = self.pipe.model(torch.from_numpy(batch).to(self.pipe.device)).logits
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def label(self, paths: list[str], batch: int) -> list[int]:
        """Label files, with the decoding in worker processes."""
        found = self.pipe(paths, top_k=1, batch_size=batch, num_workers=self.job.threads)
        index = self.pipe.model.config.label2id
        return [index[best[0]["label"]] for best in found]

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        return {"compute": "fp32", "runtime": self.runtime, "files": list(self.job.weights)}
