"""The engine on the CPU: batches of any size, fixed buffers behind it, memory that runs out."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vit_engine.artefact.metadata import read_contract
from vit_engine.engine import Engine
from vit_engine.errors import ArtefactError, UsageError
from vit_engine.providers.buckets import BucketSession, buckets_up_to
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import is_out_of_memory, open_session

Pixels = NDArray[np.uint8]
CLOSE = 1e-4
"""Batches of another size may take other kernels, which round differently."""


def images(count: int, size: int = 32, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def bucketed(path: Path, largest: int) -> BucketSession:
    """The runner of the GPU providers, on the CPU's."""
    spec = SessionSpec(path, read_contract(path))
    return BucketSession(
        open_session(spec, {"cpu": {}}),
        spec.contract,
        largest,
        device=("cpu", 0),
        graphs=True,  # the CPU provider ignores the graphs' numbers
    )


@pytest.fixture
def engine(tiny_artefact: Path) -> Iterator[Engine]:
    """An engine whose session runs batches of up to 4 in fixed buffers."""
    contract = read_contract(tiny_artefact)
    with Engine(
        contract, "cpu", lambda most: bucketed(tiny_artefact, most), max_batch=4, in_flight=2
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def expected(tiny_artefact: Path) -> NDArray[np.float32]:
    """The logits of 16 images, one at a time in a plain session."""
    with Engine.open(tiny_artefact, provider="cpu") as engine:
        return np.concatenate([engine.run(image[None]) for image in images(16)])


def test_buckets_are_powers_of_two_and_the_largest() -> None:
    assert [buckets_up_to(n) for n in (1, 2, 3, 8)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8)]


@pytest.mark.parametrize("provider", ["cpu", "auto"])
def test_batches_of_any_size(
    tiny_artefact: Path, expected: NDArray[np.float32], provider: str
) -> None:
    with Engine.open(tiny_artefact, provider=provider, max_batch=3) as engine:
        assert engine.provider in ("cpu", "cuda")
        for count in (0, 1, 2, 3, 4, 7, 16):
            logits = engine.run(images(16)[:count])
            assert logits.shape == (count, 5)
            np.testing.assert_allclose(logits, expected[:count], atol=CLOSE)


def test_padded_batches_give_their_own_logits(
    engine: Engine, expected: NDArray[np.float32]
) -> None:
    pixels = images(16)
    order = np.random.default_rng(1)
    for _ in range(40):  # every bucket is filled by turns, and keeps what was there before
        start = int(order.integers(0, 16))
        stop = int(order.integers(start + 1, 17))
        logits = engine.run(pixels[start:stop])
        np.testing.assert_allclose(logits, expected[start:stop], atol=CLOSE)


def test_logits_do_not_change_when_their_buffer_is_used_again(engine: Engine) -> None:
    first = engine.run(images(2))
    kept = first.copy()
    for seed in range(1, 6):
        engine.run(images(2, seed=seed))
    np.testing.assert_array_equal(first, kept)


def test_threads_get_the_logits_of_their_own_batch(
    engine: Engine, expected: NDArray[np.float32]
) -> None:
    pixels, wrong = images(16), []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        for _ in range(25):
            picked = order.integers(0, 16, int(order.integers(1, 10)))
            if not np.allclose(engine.run(pixels[picked]), expected[picked], atol=CLOSE):
                wrong.append(picked)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_submitted_batches_overlap_and_keep_apart(
    engine: Engine, expected: NDArray[np.float32]
) -> None:
    pixels = images(16)
    futures = [engine.submit(pixels[i : i + 3]) for i in range(0, 12, 3)]
    for i, future in zip(range(0, 12, 3), futures, strict=True):
        np.testing.assert_allclose(future.result(), expected[i : i + 3], atol=CLOSE)


def test_the_normalised_input_goes_through_buckets_too(tiny_folder: Path, tmp_path: Path) -> None:
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    path = tmp_path / "model.onnx"
    export(load(str(tiny_folder)), path, precision="fp32", io="hf", images=None)
    with Engine.open(path, provider="cpu") as plain:
        wanted = plain.run(images(7))
    contract = read_contract(path)
    with Engine(
        contract, "cpu", lambda most: bucketed(path, most), max_batch=4, in_flight=2
    ) as engine:
        np.testing.assert_allclose(engine.run(images(7)), wanted, atol=CLOSE)


def test_what_an_engine_refuses(tiny_artefact: Path, tmp_path: Path) -> None:
    with Engine.open(tiny_artefact, provider="cpu") as engine:
        for batch in (images(1, 33), images(1).astype(np.float32), images(1)[0]):
            with pytest.raises(UsageError, match=r"the model takes uint8 \(N, 32, 32, 3\)"):
                engine.run(batch)
    with pytest.raises(UsageError, match="closed"):
        engine.run(images(1))
    with pytest.raises(UsageError, match="closed"):
        engine.submit(images(1))
    for name, minimum in (("max_batch", 1), ("threads", 1), ("device", 0)):
        with pytest.raises(UsageError, match=f"{name} is -1, it must be at least {minimum}"):
            Engine.open(tiny_artefact, provider="cpu", **{name: -1})
        with pytest.raises(TypeError, match=rf"{name} is 1.0 \(float\), it must be a whole number"):
            Engine.open(tiny_artefact, provider="cpu", **{name: 1.0})
    with pytest.raises(TypeError, match="model is of type bytes"):
        Engine.open(b"vit.onnx")
    with pytest.raises(ArtefactError, match="no such file"):
        Engine.open(tmp_path / "absent.onnx", provider="cpu")


# Words of ONNX Runtime: an exception of its Python API (its issue 22702), of its arena at a limit
# (raised by the test below), and CUDA's and cuBLAS's as its CUDA provider forwards them.
MEMORY_ERRORS = [
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv "
    "node. Name:'/patch_embed/Conv' Status Message: /onnxruntime_src/onnxruntime/core/framework/"
    "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::"
    "Stream*, bool, onnxruntime::WaitNotificationFn) Failed to allocate memory for requested "
    "buffer of size 4585490524",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=node ; expr=cudaMalloc((void**)&p, size);",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=node ; expr=cublasCreate(&h);",
]


def test_errors_of_memory_are_told_from_others() -> None:
    assert all(is_out_of_memory(RuntimeError(text)) for text in MEMORY_ERRORS)
    other = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"
    assert not is_out_of_memory(RuntimeError(other))


# ONNX Runtime's arena, limited for the whole process: a session's weights fit, large batches do
# not. What it raises is what a full GPU makes it raise.
LIMITED = """
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vit_engine.artefact.metadata import read_contract
from vit_engine.providers.buckets import BucketSession
from vit_engine.engine import Engine
from vit_engine.errors import ProviderError

path, limit, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
config = ort.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})
ort.create_and_register_allocator(info, config)
contract = read_contract(path)


def opened(largest):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return BucketSession(session, contract, largest, device=("cpu", 0), graphs=False)


pixels = np.random.default_rng(0).integers(0, 256, (most, 32, 32, 3), np.uint8)
with Engine(contract, "cpu", opened, max_batch=most, in_flight=2) as engine:
    try:
        futures = [engine.submit(pixels) for _ in range(3)]
        logits = [future.result() for future in futures]
    except ProviderError as e:
        sys.exit(str(e))
    assert all((found == logits[0]).all() for found in logits)
    print(engine.max_batch)
    np.save(sys.argv[4], logits[0])
"""


def limited(path: Path, limit: int, out: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", LIMITED, str(path), str(limit), "256", str(out)]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)


def test_out_of_memory_halves_the_batch_and_keeps_the_labels(
    tiny_artefact: Path, tmp_path: Path
) -> None:
    done = limited(tiny_artefact, 3_000_000, tmp_path / "logits.npy")
    assert done.returncode == 0, done.stderr
    batch = int(done.stdout)
    assert batch < 256
    assert f"cpu ran out of memory; continuing with batches of {batch}" in done.stderr
    with Engine.open(tiny_artefact, provider="cpu") as engine:
        wanted = engine.run(images(256))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), wanted, atol=CLOSE)


def test_out_of_memory_for_one_image_is_told(tiny_artefact: Path, tmp_path: Path) -> None:
    done = limited(tiny_artefact, 105_000, tmp_path / "logits.npy")
    assert done.returncode == 1
    assert "cpu has too little memory for even one image" in done.stderr
