"""What runs on the nodes of a cluster: decode tasks and classifier actors, from table to table."""

import functools
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vit_engine.cluster import manifest
from vit_engine.errors import ImageError, VitError
from vit_engine.image_model import ImageModel
from vit_engine.images.decode_pool import DecodeJob
from vit_engine.images.decoder_process import DecodeOptions, DecoderProcess, SharedPixels
from vit_engine.options import EngineOptions
from vit_engine.outputs.kinds import Result
from vit_engine.outputs.scores import Selection
from vit_engine.rows.formats import arrow_path, arrow_schema
from vit_engine.rows.vectors import VectorType, arrow_table
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.sample import Sample
from vit_engine.sources.urls import is_remote

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

Parts = TypeVar("Parts", Sequence[Sample], NDArray[np.uint8])

_READERS = 16  # threads of one decode task that wait for the object store
_OBJECTS = 32  # of the store whose bytes are decoded, while as many more are read


@dataclass(frozen=True)
class Decoding:
    """How images become pixels, in blocks of `slots` at most."""

    decode_options: DecodeOptions
    slots: int
    height: int
    width: int


@dataclass(frozen=True)
class Labelling:
    """The model, its file and all, and how it is run: for nodes that have neither."""

    file: "ray.ObjectRef[bytes]"
    options: EngineOptions
    selection: Selection
    vectors: VectorType | None


def decoded(table: "pa.Table", given: Decoding) -> "pa.Table":
    """Return a manifest's rows with their `error`, `error_code` and `pixels` (as bytes).

    Each image is decoded in a process that it may crash or hang at no cost but its own row.
    """
    import pyarrow as pa

    shared, decoder = _decoder(given)
    errors: list[ImageError | None] = []
    parts = []
    for samples in _fetched(manifest.items_from_table(table), given):
        jobs = [DecodeJob(item, slot) for slot, item in enumerate(samples)]
        decoder.decode(jobs)
        errors += [job.error for job in jobs]
        parts.append(shared.array[: len(jobs)].tobytes())
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(shared.array[0].nbytes), len(table), [None, pa.py_buffer(b"".join(parts))]
    )
    return (
        table.select([name for name in ("row_id", "path", "raw") if name in table.column_names])
        .append_column("error", pa.array([e and str(e) for e in errors], pa.string()))
        .append_column("error_code", pa.array([e and e.code for e in errors], pa.string()))
        .append_column("pixels", pixels)
    )


@functools.cache
def _decoder(given: Decoding) -> tuple[SharedPixels, DecoderProcess]:
    """Return the decoder process of this worker, which ends with it."""
    shared = SharedPixels(given.slots, given.height, given.width)
    return shared, DecoderProcess(shared, given.decode_options)


def _fetched(samples: Sequence[Sample], given: Decoding) -> Iterator[Sequence[Sample]]:
    """Yield the items in parts that have slots, those from elsewhere with their bytes."""

    def is_here(item: Sample) -> bool:
        return item.error is not None or not is_remote(item.path)

    def fetch(item: Sample) -> Sample:
        if is_here(item):
            return item
        try:
            data = bytes_from_item(
                item,
                limits=given.decode_options.limits,
                private_redirects=given.decode_options.private_redirects,
            )
            return Sample(item.path, data)
        except ImageError as e:
            return Sample(item.path, error=e)

    if all(map(is_here, samples)):
        yield from _parts(samples, given.slots)
        return

    with ThreadPoolExecutor(_READERS) as readers:
        parts = [*_parts(samples, min(given.slots, _OBJECTS)), ()]
        coming = [readers.submit(fetch, item) for item in parts[0]]
        for part in parts[1:]:
            after = [readers.submit(fetch, item) for item in part]
            yield [future.result() for future in coming]
            coming = after


def _parts(samples: Parts, size: int) -> Iterator[Parts]:
    return (samples[at : at + size] for at in range(0, len(samples), size))


class Labeller:
    """One classifier: an actor with a session of its own, whose calls may overlap."""

    def __init__(self, given: Labelling) -> None:
        import ray

        self._folder = tempfile.TemporaryDirectory(prefix="vit-engine-")
        model = Path(self._folder.name, "vit.onnx")
        model.write_bytes(ray.get(given.file))
        self._opened: ImageModel | VitError
        try:
            self._opened = ImageModel.load(model, given.options)
        except VitError as e:
            # Kept for the first call: Ray hands its error on as it is, a constructor's as text.
            self._opened = e
        self._given = given

    def __call__(self, table: "pa.Table") -> "pa.Table":
        """Return the rows of what `decoded` gave: those of vit-infer, after their `row_id`."""
        import pyarrow as pa

        if isinstance(self._opened, VitError):
            raise self._opened
        vit = self._opened
        codes = table["error_code"].to_pylist()
        batch = _pixels(table, vit)
        if table["error_code"].null_count < len(codes):
            batch = batch[[code is None for code in codes]]
        found: Iterator[Result] = vit.output.results(_logits(vit, batch), self._given.selection)
        rows: list[dict[str, Any]] = []
        for row_id, item, error, code in zip(
            table["row_id"].to_pylist(),
            manifest.items_from_table(table),
            table["error"].to_pylist(),
            codes,
            strict=True,
        ):
            if code is None:
                result = next(found)
            else:
                result = vit.output.failed(item.path, ImageError(code, error))
            rows.append({**result.packed(), **arrow_path(item.path), "row_id": row_id})
        model, dtype = vit.contract.identity.model, self._given.vectors or "float32"
        schema = arrow_schema(vit.output, dtype, model)
        return arrow_table(rows, schema.insert(0, pa.field("row_id", pa.int64())))


def _logits(vit: ImageModel, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the batch in parts, through the engine's own threads: an actor's calls may overlap."""
    parts = _parts(batch, vit.engine.max_batch) if len(batch) else [batch]
    return np.concatenate([f.result() for f in [vit.engine.submit(part) for part in parts]])


def _pixels(table: "pa.Table", vit: ImageModel) -> NDArray[np.uint8]:
    """Return the pixels (N, H, W, 3) where they are: in the shared memory of the node."""
    column = table["pixels"].combine_chunks()
    pixels = np.frombuffer(column.buffers()[1], np.uint8)
    input_spec = vit.contract.input
    batch = pixels.reshape(-1, input_spec.height, input_spec.width, 3)
    return batch[column.offset : column.offset + len(column)]
