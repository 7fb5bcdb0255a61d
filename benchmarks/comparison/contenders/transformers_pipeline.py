"""transformers' own pipeline, from files to labels."""

from typing import Any

from comparison.job import Contender, Job, Logits, versions_of


def load(job: Job) -> Contender:
    """Load the checkpoint as `pipeline("image-classification")` does."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(job.threads)
    processor = transformers.AutoImageProcessor.from_pretrained(
        job.model, local_files_only=True, backend="pil"
    )
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
