"""transformers' own pipeline, from files to labels."""

from typing import Any

from comparison.contenders.pytorch import processor_of, quiet
from comparison.job import Contender, Job, Logits, versions_of


def load(job: Job) -> Contender:
    """Load the checkpoint as `pipeline("image-classification")` does."""
    import torch
    import transformers

    quiet(transformers)
    torch.set_num_threads(job.threads)
    processor = processor_of(job, transformers)
    pipe: Any = transformers.pipeline(
        "image-classification", job.model, image_processor=processor, device=job.device
    )

    def run(batch: Any) -> Logits:
        with torch.inference_mode():
            logits = pipe.model(torch.from_numpy(batch).to(pipe.device)).logits
        found: Logits = logits.float().cpu().numpy()
        return found

    def label(paths: list[str], batch: int) -> list[int]:
        found = pipe(paths, top_k=1, batch_size=batch, num_workers=job.threads)
        return [pipe.model.config.label2id[best[0]["label"]] for best in found]

    runtime = versions_of(torch, transformers)
    about = {"compute": "fp32", "runtime": runtime, "files": list(job.weights)}
    return Contender("float32", run, about, label)
