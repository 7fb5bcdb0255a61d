"""Labels the images of a manifest with Ray Data, in as many rows as there are images.

OUT/rows/      the rows by row_id        OUT/run.json     what a resumed run must match
OUT/manifest/  the images by row_id      OUT/checkpoint/  the row_ids whose rows are written
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_engine.artefact import metadata
from vit_engine.cluster import connection, manifest
from vit_engine.cluster.connection import Capacity, Workers
from vit_engine.cluster.tasks import Decoding, Labeller, Labelling, decoded
from vit_engine.errors import UsageError
from vit_engine.images.decoder_process import TIME_LIMIT, DecodeOptions
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.outputs.scores import ScoreOptions
from vit_engine.rows.formats import format_from_name
from vit_engine.rows.vectors import VectorType
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.object_stores import Folder, folder_from_path
from vit_engine.sources.sample import Sample

if TYPE_CHECKING:
    from ray.data.checkpoint import CheckpointConfig

BLOCK = 256
"""Images of one task: seconds of work to do again, and 38 MB of pixels at 224x224."""

FILES, MAX_ROWS_A_FILE = 200, 50_000
"""A file of rows, which is what a killed run loses, has a two-hundredth of them or this many."""

RETRIES = 3
"""How often a task is done again, or a classifier started, whose process or node has died."""

CALLS = 2
"""Blocks that a classifier is at work on."""

_FILTER_MEMORY = 2**28  # bytes that Ray is to count for the filter of a resumed run, not 1 GiB


@dataclass(frozen=True)
class Tally:
    """What a run has come to: its rows, those with an error, and those of earlier runs."""

    rows: int
    failed: int
    resumed: int


def label(
    sources: Sequence[str],
    output: str,
    *,
    address: str | None = None,
    model: str | Path = metadata.DEFAULT_MODEL,
    top_k: int | None = None,
    threshold: float | None = None,
    vectors: VectorType | None = None,
    workers: Workers = Workers(),  # noqa: B008  frozen
    resume: bool = False,
    timeout: float = TIME_LIMIT,
    fast: bool = False,
    private_redirects: bool = False,
    block: int = BLOCK,
    find: Callable[[Sequence[str]], Iterator[Sample]] = samples_from_sources,
) -> Tally:
    """Write a row for each image of a manifest, or of what `find` finds in the sources.

    `address` is that of `connection.connected`, `vectors` the `dtype` of
    `formats.format_from_name`; other options are those of `Classifier.classify` and
    `DecodeOptions`. UsageError where `output` has another run in it, or a row_id is not there
    exactly once; VitError where the cluster failed for good: what is written stays, for `resume`.
    """
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}, it must be at least 1")
    path = metadata.path_from_name(model)
    contract = metadata.read_contract(path)
    kind = output_from_contract(contract.output)
    selection = kind.selection(ScoreOptions(top_k, threshold))
    if vectors:
        format_from_name("parquet", kind, dtype=vectors)  # or its refusal
    file = path.read_bytes()
    run: dict[str, Any] = {
        "sources": list(sources),
        "model_sha256": hashlib.sha256(file).hexdigest(),
        "top_k": selection.top_k,
        "threshold": selection.threshold,
        "vectors": vectors,
        "timeout": timeout,
        "fast": fast,
        "private_redirects": private_redirects,
    }
    out = folder_from_path(output)
    images, total = _images(out, run, find, resume=resume)
    if resume and _count(out) == total:
        return Tally(total, _count(out, failed=True), total)
    decode_options = DecodeOptions(
        contract.preprocessing, time_limit=timeout, fast=fast, private_redirects=private_redirects
    )
    decoding = Decoding(decode_options, block, contract.input.height, contract.input.width)
    with connection.connected(address, workers) as capacity:
        import ray

        resumed = _count(out)
        options = replace(workers.engine, threads=capacity.threads)
        labelling = Labelling(ray.put(file), options, selection, vectors)
        rows_a_file = max(block, min(MAX_ROWS_A_FILE, total // FILES))
        _run(images, out, decoding, labelling, capacity=capacity, rows_a_file=rows_a_file)
    rows = _count(out)
    if rows != total:
        raise UsageError(
            f"{output}: {rows} rows for {total} images; "
            "check that every row_id is there exactly once"
        )
    return Tally(rows, _count(out, failed=True), resumed)


def _images(
    out: Folder,
    run: dict[str, Any],
    find: Callable[[Sequence[str]], Iterator[Sample]],
    *,
    resume: bool,
) -> tuple[Folder, int]:
    """Return the manifest, written if need be, and how many it has; refuse another run's folder."""
    files, stamp = out.filesystem, (out / "run.json").path
    given = manifest.of_sources(run["sources"])
    images = given or out / "manifest"
    with contextlib.suppress(FileNotFoundError):
        with files.open_input_stream(stamp) as file:
            found = json.loads(file.read())
        if not resume:
            raise UsageError(
                f"{out.path}: already holds a run; continue it with --resume, "
                "or name another folder"
            )
        for key, value in run.items():
            if found.get(key) != value:
                raise UsageError(
                    f"{out.path}: was begun with {key} {found.get(key)}, this is {value}; "
                    "resume with the same, or name another folder"
                )
        return images, int(found["images"])
    # Before anything is written, for what it refuses.
    samples = iter(()) if given else find(run["sources"])
    for name in ("rows", "checkpoint"):
        files.create_dir((out / name).path, recursive=True)
    total = manifest.count(given) if given else manifest.write(samples, images)
    with files.open_output_stream(stamp) as file:  # last: a manifest without it is not whole
        file.write(json.dumps({**run, "images": total}, indent=1).encode())
    return images, total


def _run(
    images: Folder,
    out: Folder,
    decoding: Decoding,
    labelling: Labelling,
    *,
    capacity: Capacity,
    rows_a_file: int,
) -> None:
    """Read, decode, label and write. What Ray knows to be written already is not read again."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = 0  # the rows of a block with an error would be lost
    context.raise_original_map_exception = True  # what wraps it loses it on the way to here
    context.enable_progress_bars = os.isatty(2)
    context.checkpoint_config = _checkpoint(out / "checkpoint")
    given = manifest.dataset(images).schema
    rows = out / "rows"
    again: Any = {"max_retries": RETRIES}
    decode: Any = decoded  # Ray's types know no pyarrow
    try:
        with warnings.catch_warnings():
            # Retries have no other name yet, and without a name they have no end.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            ray.data.read_parquet(
                images.path, filesystem=images.filesystem, ray_remote_args=again
            ).select_columns(
                [name for name in manifest.schema().names if name in given.names]
            ).repartition(target_num_rows_per_block=decoding.slots).map_batches(
                decode,
                fn_args=(decoding,),
                batch_format="pyarrow",
                num_cpus=1,
                **again,
            ).map_batches(
                Labeller,
                fn_constructor_args=(labelling,),
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=1,
                    max_size=capacity.actors,
                    # One block's rows are written down while the engine has the next.
                    max_concurrent_calls_per_actor=CALLS,
                    enable_true_multi_threading=True,
                ),
                num_cpus=capacity.cpus,
                num_gpus=capacity.gpus,
                max_restarts=RETRIES,
                # Counted while a dead node's actor is sought elsewhere, a few would be used up in
                # seconds. The restarts are the bound: past them each call fails.
                max_task_retries=-1,
            ).write_parquet(
                rows.path,
                filesystem=rows.filesystem,
                min_rows_per_file=rows_a_file,
                ray_remote_args=again,
            )
    finally:
        context.checkpoint_config = None


def _checkpoint(done: Folder) -> "CheckpointConfig":
    from ray.data.checkpoint import CheckpointConfig

    config = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=done.path,
        override_filesystem=done.filesystem,
        delete_checkpoint_on_success=False,
    )
    config.checkpoint_actor_memory_bytes = _FILTER_MEMORY
    return config


def _count(out: Folder, *, failed: bool = False) -> int:
    import pyarrow.compute as pc
    from pyarrow.fs import FileType

    rows = out / "rows"
    if out.filesystem.get_file_info(rows.path).type == FileType.NotFound:
        return 0  # an object store has no empty folders
    written = manifest.dataset(rows)
    return int(written.count_rows(filter=pc.field("error_code").is_valid() if failed else None))
