"""Labels a manifest on a Ray cluster: decode tasks, a pool of classifiers, Parquet files of rows.

    OUT/rows/      the rows by row_id        OUT/run.json     what a resumed run must match
    OUT/manifest/  the images by row_id      OUT/checkpoint/  the row_ids whose rows are written
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import signal
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vit_runtime import artefact, manifest
from vit_runtime.classifier import DEFAULT_TOP_K, Classifier, Prediction
from vit_runtime.errors import ImageError, ProviderError, UsageError, VitError
from vit_runtime.isolate import DecoderProcess, SharedPixels, Task
from vit_runtime.machine import usable_cores
from vit_runtime.pipeline import Job
from vit_runtime.providers import DEFAULT_PROVIDER
from vit_runtime.sources import Item
from vit_runtime.storage import (
    Folder,
    bytes_from_store,
    folder_from_path,
    is_store,
    items_from_anywhere,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

BLOCK = 256
"""Images in one decode task: seconds of work to lose, and 38 MB of pixels at 224x224."""

MAX_ROWS_A_FILE = 50_000
MAX_FILES = 200
"""Rows are written in files of a two-hundredth of the run, or MAX_ROWS_A_FILE if that is less."""

RETRIES = 3
"""How often a task is run again, or a classifier started again, when its process or node dies."""

_READERS = 16  # threads of a decode task that wait for the object store
_CHUNK = 32  # objects of it that are held at once


@dataclass(frozen=True)
class Workers:
    """The pool of classifiers: None leaves it to the cluster.

    `actors` at most (default: one for each GPU, without GPUs one a node), `gpus` and `threads` of
    each (`gpus` may be a fraction; `threads` counts as CPUs where there is no GPU).
    """

    provider: str = DEFAULT_PROVIDER
    actors: int | None = None
    gpus: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Tally:
    """What a run has come to; `resumed` of the rows were there before."""

    rows: int
    failed: int
    resumed: int


def label(
    sources: Sequence[str],
    output: str,
    *,
    address: str | None = None,
    model: str | Path = "vit.onnx",
    top_k: int = DEFAULT_TOP_K,
    workers: Workers = Workers(),  # noqa: B008  frozen
    resume: bool = False,
    block: int = BLOCK,
    **options: Any,
) -> Tally:
    """Write one row for each image of a manifest, or of vit-infer's sources, below `output`.

    Without an address a Ray of this machine is started, and ended. `options` are those of
    `items_from_sources`. UsageError where `output` has another run in it, VitError where the
    cluster has failed for good; what is written stays, for `resume`.
    """
    path = artefact.path_from_name(model)
    contract = artefact.read_contract(path)
    if top_k < 1 or block < 1:
        raise UsageError(f"top_k is {top_k}, block {block}; both must be at least 1")
    given = contract.input
    out = folder_from_path(output)
    run = {
        "sources": list(sources),
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "top_k": top_k,
    }
    images, total = _images(out, run, resume=resume, **options)
    done = _rows(out) if resume else 0
    with _session(address, workers) as (data, pool):
        _pipeline(
            data,
            images,
            out / "rows",
            _checkpoint(data, out),
            decoding=(Task(contract.preprocessing), (block, given.height, given.width)),
            pool=pool,
            labelling=_Model(path.read_bytes(), workers, min(top_k, len(contract.output.labels))),
            rows_a_file=max(block, min(MAX_ROWS_A_FILE, total // MAX_FILES)),
        )
    rows = _rows(out)
    if rows != total:
        raise VitError(
            f"{output}: {rows} rows for {total} images; is row_id unique in the manifest? "
            "The run is not complete"
        )
    return Tally(rows, _failed(out), done)


def _images(out: Folder, run: dict[str, Any], *, resume: bool, **options: Any) -> tuple[Folder, int]:
    """Return the manifest and its count, written first if need be; refuse another run's folder."""
    stamp = (out / "run.json").path
    given = manifest.of_source(run["sources"])
    images = given or out / "manifest"
    found = None
    with contextlib.suppress(FileNotFoundError), out.filesystem.open_input_stream(stamp) as file:
        found = json.loads(file.read())
    if found is not None:
        if not resume:
            raise UsageError(f"{out.path}: has a run in it; add --resume, or name another folder")
        for key, value in run.items():
            if found.get(key) != value:
                raise UsageError(
                    f"{out.path}: was begun with {key} {found.get(key)}, now it is {value}; "
                    "resume with the same, or name another folder"
                )
        return images, int(found["images"])
    if given is None:
        total = manifest.write(items_from_anywhere(run["sources"], **options), images)
    else:
        total = manifest.count(images)
    out.filesystem.create_dir(out.path, recursive=True)
    with out.filesystem.open_output_stream(stamp) as file:  # last: the manifest is whole
        file.write(json.dumps({**run, "images": total}, indent=1).encode())
    return images, total


def _rows(out: Folder) -> int:
    from pyarrow.fs import FileType

    if out.filesystem.get_file_info((out / "rows").path).type == FileType.NotFound:
        return 0
    return manifest.count(out / "rows")


def _failed(out: Folder) -> int:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    rows = out / "rows"
    dataset = ds.dataset(rows.path, filesystem=rows.filesystem, format="parquet")
    return int(dataset.count_rows(filter=pc.field("error_code").is_valid()))


@dataclass(frozen=True)
class _Pool:
    """The `map_batches` arguments of the classifiers."""

    actors: int
    num_cpus: float
    num_gpus: float


@contextlib.contextmanager
def _session(address: str | None, workers: Workers) -> Iterator[tuple[Any, _Pool]]:
    """Connect to Ray, or start it here with token authentication and without a dashboard.

    Yields `ray.data` and the pool that the cluster has room for.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {}
    if address == "local":
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # What a classifier and the filter of a resumed run hold, and a CPU for each decoder.
        cpus = (workers.threads or usable_cores()) * (workers.actors or 1) + 1 + usable_cores()
        local = {"num_cpus": cpus, "include_dashboard": False}
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as e:
        raise ProviderError("Ray is not installed; pip install 'vit-engine[ray]'") from e
    before = signal.getsignal(signal.SIGTERM)
    connected = ray.is_initialized()
    try:
        if not connected:
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **local)
            signal.signal(signal.SIGTERM, before)  # Ray's own would end us with another code
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        yield ray.data, _room(ray, workers)
    except (ConnectionError, ray.exceptions.AuthenticationError) as e:
        raise ProviderError(f"Ray at {address} cannot be reached: {_line(e)}") from e
    except (ray.exceptions.RayError, *_data_errors()) as e:
        raise _cause(e) or VitError(
            f"the Ray job ended: {_line(e)}; what is written is kept, --resume goes on"
        ) from e
    finally:
        if not connected:
            ray.shutdown()


def _data_errors() -> tuple[type[Exception], ...]:
    from ray.data.exceptions import RayDataUserCodeException, SystemException

    return RayDataUserCodeException, SystemException


def _room(ray: Any, workers: Workers) -> _Pool:
    """Return the pool, or refuse a cluster on which it would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cluster = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    gpus = workers.gpus
    if gpus is None:
        gpus = 1 if cluster["GPU"] and workers.provider != "cpu" else 0
    cpus = 1 if gpus else workers.threads or usable_cores()
    actors = workers.actors or int(cluster["GPU"] / gpus if gpus else len(nodes))
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        raise ProviderError(f"no node of the cluster has {cpus} CPUs and {gpus:g} GPUs for a model")
    if cluster["CPU"] < cpus + 2:  # the filter of a resumed run, and one decoder
        raise ProviderError(
            f"the cluster has {cluster['CPU']:g} CPUs; a classifier of {cpus} threads, "
            f"a decoder and a reader need {cpus + 2}: add a node or lower --threads"
        )
    return _Pool(max(1, actors), cpus, gpus)


def _cause(e: BaseException | None) -> VitError | None:
    """Return the error of ours that Ray has wrapped."""
    while e is not None:
        if isinstance(e, VitError):
            return e
        e = getattr(e, "cause", None) or e.__cause__
    return None


def _line(e: BaseException) -> str:
    text = " ".join(str(e).split()) or type(e).__name__
    return text if len(text) < 300 else f"{text[:300]}..."


def _checkpoint(data: Any, out: Folder) -> Any:
    from ray.data.checkpoint import CheckpointConfig

    done = out / "checkpoint"
    done.filesystem.create_dir(done.path, recursive=True)
    config = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=done.path,
        override_filesystem=done.filesystem,
        delete_checkpoint_on_success=False,
    )
    config.checkpoint_actor_memory_bytes = 2**27  # of each filter, beside the ids: not Ray's 1 GiB
    return config


def _pipeline(
    data: Any,
    images: Folder,
    rows: Folder,
    checkpoint: Any,
    *,
    decoding: tuple[Task, tuple[int, int, int]],
    pool: _Pool,
    labelling: "_Model",
    rows_a_file: int,
) -> None:
    import ray
    from ray.util.annotations import RayDeprecationWarning

    context = data.DataContext.get_current()
    context.max_errored_blocks = 0  # a block with an error ends the job: it would be lost
    context.enable_progress_bars = os.isatty(2)
    context.checkpoint_config = checkpoint
    retries = {"max_retries": RETRIES}
    try:
        with warnings.catch_warnings():
            # Retries have no other name yet, and are without end unless named.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset: Dataset = data.read_parquet(
                images.path, filesystem=images.filesystem, ray_remote_args=retries
            )
            dataset = dataset.repartition(target_num_rows_per_block=decoding[1][0])
            dataset = dataset.map_batches(
                _decoded, fn_args=decoding, batch_format="pyarrow", num_cpus=1, **retries
            )
            dataset = dataset.map_batches(
                _Labeller,
                fn_constructor_args=(ray.put(labelling),),
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(min_size=1, max_size=pool.actors),
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
                max_restarts=RETRIES,
                max_task_retries=RETRIES,
            )
            dataset.write_parquet(
                rows.path,
                filesystem=rows.filesystem,
                min_rows_per_file=rows_a_file,
                ray_remote_args=retries,
            )
    finally:
        context.checkpoint_config = None


def _decoded(table: "pa.Table", task: Task, shape: tuple[int, int, int]) -> "pa.Table":
    """Return `path`, `error`, `error_code` and `pixels` (height * width * 3 bytes) of each row."""
    import pyarrow as pa

    shared, decoder = _decoder(task, shape)
    items = manifest.items(table)
    errors: list[ImageError | None] = []
    parts = []
    for fetched in _fetched(items, task, shape[0]):
        jobs = [Job(item, slot) for slot, item in enumerate(fetched)]
        decoder.decode(jobs)
        errors += [job.error for job in jobs]
        parts.append(shared.array[: len(jobs)].tobytes())
    size = shared.array[0].nbytes
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(items), [None, pa.py_buffer(b"".join(parts))]
    )
    names = [name for name in ("row_id", "path", "raw") if name in table.column_names]
    return (
        table.select(names)
        .append_column("error", pa.array([e and str(e) for e in errors], pa.string()))
        .append_column("error_code", pa.array([e and e.code for e in errors], pa.string()))
        .append_column("pixels", pixels)
    )


@functools.cache
def _decoder(task: Task, shape: tuple[int, int, int]) -> tuple[SharedPixels, DecoderProcess]:
    """Return this worker's own decoder process, which ends with it."""
    shared = SharedPixels(*shape)
    return shared, DecoderProcess(shared, task)


def _fetched(items: Sequence[Item], task: Task, block: int) -> Iterator[Sequence[Item]]:
    """Yield the items in parts of a block, those of an object store with their bytes."""

    def fetch(item: Item) -> Item:
        try:
            return Item(item.path, bytes_from_store(item.path, limits=task.limits))
        except ImageError as e:
            return Item(item.path, error=e)

    if not any(is_store(item.path) for item in items):
        yield from (items[at : at + block] for at in range(0, len(items), block))
        return
    size = min(block, _CHUNK)
    with ThreadPoolExecutor(_READERS) as readers:
        ahead = None
        for at in range(0, len(items), size):
            part = [
                readers.submit(fetch, item) if is_store(item.path) else item
                for item in items[at : at + size]
            ]
            if ahead is not None:
                yield [x if isinstance(x, Item) else x.result() for x in ahead]
            ahead = part
        if ahead is not None:
            yield [x if isinstance(x, Item) else x.result() for x in ahead]


@dataclass(frozen=True)
class _Model:
    """What a classifier on another machine is told; the file goes with it."""

    file: bytes
    workers: Workers
    top_k: int


class _Labeller:
    """One classifier, an actor."""

    def __init__(self, model: Any) -> None:
        import ray

        given: _Model = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self._folder = tempfile.TemporaryDirectory(prefix="vit-engine-")
        path = Path(self._folder.name, "vit.onnx")
        path.write_bytes(given.file)
        self._vit = Classifier.load(
            path, provider=given.workers.provider, threads=given.workers.threads
        )
        self._top_k = given.top_k

    def __call__(self, table: "pa.Table") -> "pa.Table":
        """Return the rows of decoded images."""
        batch = self._pixels(table)
        codes = table["error_code"].to_pylist()
        readable = np.array([code is None for code in codes], dtype=bool)
        logits = self._vit.engine.run(batch if readable.all() else batch[readable])
        found = self._vit.predictions(logits, self._top_k)
        predictions = [
            replace(next(found), path=path)
            if code is None
            else Prediction(path, error=error, error_code=code)
            for path, error, code in zip(
                table["path"].to_pylist(), table["error"].to_pylist(), codes, strict=True
            )
        ]
        return _table_from_predictions(table["row_id"], predictions)

    def _pixels(self, table: "pa.Table") -> NDArray[np.uint8]:
        given = self._vit.contract.input
        column = table["pixels"].combine_chunks()
        shape = (given.height, given.width, 3)
        flat = np.frombuffer(column.buffers()[1], np.uint8)
        batch = flat.reshape(-1, *shape)[column.offset : column.offset + len(column)]
        return batch


def _table_from_predictions(row_ids: Any, predictions: Sequence[Prediction]) -> "pa.Table":
    import pyarrow as pa

    from vit_runtime.rows import row_from_prediction

    score = [("label", pa.string()), ("index", pa.int64()), ("score", pa.float64())]
    schema = pa.schema(
        [
            ("path", pa.string()),
            *score,
            ("topk", pa.list_(pa.struct(score))),
            ("error", pa.string()),
            ("error_code", pa.string()),
        ]
    )
    table = pa.Table.from_pylist([row_from_prediction(p) for p in predictions], schema)
    return table.add_column(0, "row_id", row_ids)
