"""TensorRT without a GPU: the cache of engines, and the built engine's check.

The provider itself is not here to be run; `compare.py --device cuda` does that where one is.
"""

from pathlib import Path

import pytest

from support import write_checkpoint
from vit_engine.artefact.metadata import read_contract
from vit_engine.errors import ParityError, ProviderError
from vit_engine.machine import libraries, nvidia
from vit_engine.options import EngineOptions
from vit_engine.providers import engine_cache, tensorrt
from vit_engine.providers.cpu import PlainSession, open_on_cpu
from vit_engine.providers.engine_cache import EngineCache
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import open_session

GPU = nvidia.Gpu("NVIDIA H200", 150_000_000_000, (9, 0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def exported(folder: Path, path: Path, *, precision: str = "fp32", io: str = "uint8") -> Path:
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    export(load(str(folder)), path, precision=precision, io=io, images=None)
    return path


def request_for(path: Path, device: int = 0) -> SessionSpec:
    return SessionSpec(path, read_contract(path), EngineOptions(device=device))


def key(path: Path, largest: int = 8, gpu: nvidia.Gpu = GPU, driver: str = "580.95") -> str:
    found = tensorrt.cache_key(request_for(path), largest, gpu, driver, "10.14.1")
    return EngineCache.of(found).folder.name


def test_two_artefacts_of_one_name_and_architecture_never_share_engines(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_checkpoint(tmp_path / f"{seed}/model", seed=seed)
        exported(tmp_path / f"{seed}/model", tmp_path / f"{seed}/vit.onnx")
    first, second = tmp_path / "0/vit.onnx", tmp_path / "1/vit.onnx"
    assert key(first) == key(first)
    assert key(first) != key(second)


def test_an_engine_is_kept_for_its_machine_and_profile_alone(tiny_artefact: Path) -> None:
    smaller = nvidia.Gpu("NVIDIA H200", 75_000_000_000, (9, 0))
    keys = {
        key(tiny_artefact),
        key(tiny_artefact, largest=16),
        key(tiny_artefact, driver="580.105"),
        key(tiny_artefact, gpu=smaller),
        key(tiny_artefact, gpu=nvidia.Gpu("NVIDIA L4", GPU.memory, (8, 9))),
    }
    assert len(keys) == 5


def test_options_say_precision_and_profile(tiny_folder: Path, tmp_path: Path) -> None:
    whole = request_for(exported(tiny_folder, tmp_path / "fp32.onnx"))
    half = request_for(exported(tiny_folder, tmp_path / "fp16.onnx", precision="fp16", io="hf"))
    assert tensorrt.options(whole, 8, None)["trt_fp16_enable"] == "0"
    found = tensorrt.options(half, 8, None)
    assert found["trt_fp16_enable"] == "1"
    assert found["trt_profile_min_shapes"] == "pixel_values:1x3x32x32"
    assert tensorrt.profile(whole.contract.input, 8) == {
        "trt_profile_min_shapes": "pixels:1x32x32x3",
        "trt_profile_opt_shapes": "pixels:8x32x32x3",
        "trt_profile_max_shapes": "pixels:8x32x32x3",
    }


def test_a_built_engine_that_strays_is_refused(tiny_artefact: Path, tmp_path: Path) -> None:
    spec = request_for(tiny_artefact)
    tensorrt.check_engine(open_on_cpu(spec, 8), spec, 8)
    write_checkpoint(tmp_path / "model", seed=1)
    other = request_for(exported(tmp_path / "model", tmp_path / "other.onnx"))
    with pytest.raises(
        ParityError, match=r"batch 1 differs too much from the CPU: .* --provider cuda"
    ):
        tensorrt.check_engine(open_on_cpu(other, 8), spec, 8)


class Machine:
    """A machine whose TensorRT is the CPU provider: it leaves an engine file behind, or fails."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spec, self.opened, self.broken = request_for(path), 0, 0
        self.answers = self.spec  # what the built engine computes
        monkeypatch.setattr(nvidia, "driver", lambda: nvidia.Driver("580.95", (13, 0), (GPU,)))
        monkeypatch.setattr(libraries, "tensorrt_version", lambda: "10.14.1")
        monkeypatch.setattr(tensorrt, "open_session", self.session)
        monkeypatch.setattr(tensorrt, "_bucket_session", self.bucket_session)

    def session(self, spec: SessionSpec, chain: dict[str, dict[str, str]], model: bytes) -> object:
        assert list(chain) == ["tensorrt", "cuda"]
        self.opened += 1
        if self.broken:
            self.broken -= 1
            raise ProviderError("provider tensorrt cannot open it: could not deserialize")
        if int(chain["tensorrt"]["trt_engine_cache_enable"]):
            folder = Path(chain["tensorrt"]["trt_engine_cache_path"])
            (folder / "vit.engine").write_bytes(b"code")
        return open_session(self.answers, {"cpu": {}}, model=None if self.other else model)

    @property
    def other(self) -> bool:
        return self.answers is not self.spec

    def bucket_session(self, session: object, spec: SessionSpec, largest: int) -> PlainSession:
        return PlainSession(session, spec.contract, largest)

    def open(self) -> None:
        tensorrt.open_on_tensorrt(self.spec, 8).close()


def test_an_engine_is_built_once_and_then_loaded(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = Machine(tiny_artefact, monkeypatch)
    here.open()
    assert "building a TensorRT engine for batches of 1 to 8 on NVIDIA H200" in caplog.text
    caplog.clear()
    here.open()
    assert "building" not in caplog.text
    assert here.opened == 2


def test_a_damaged_or_stale_engine_is_built_anew_once(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = Machine(tiny_artefact, monkeypatch)
    here.open()
    (engine,) = engine_cache.root().glob("*/vit.engine")
    engine.write_bytes(b"damaged")
    caplog.clear()
    here.open()
    assert "is damaged" in caplog.text
    assert engine.read_bytes() == b"code"
    here.broken = 1  # sound by its hashes, and yet it does not load
    caplog.clear()
    here.open()
    assert "does not load" in caplog.text
    assert "building a TensorRT engine" in caplog.text
    here.broken = 2
    with pytest.raises(ProviderError, match="cannot open it"):
        here.open()


def test_without_a_cache_an_engine_is_built_each_time(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = Machine(tiny_artefact, monkeypatch)
    engine_cache.root().mkdir(parents=True)
    engine_cache.root().chmod(0o777)
    for _ in range(2):
        caplog.clear()
        here.open()
        assert "each start builds the engine anew" in caplog.text
        assert "on NVIDIA H200; this takes minutes\n" in caplog.text


def test_a_built_engine_that_strays_is_not_kept(
    tiny_artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Machine(tiny_artefact, monkeypatch)
    write_checkpoint(tmp_path / "model", seed=1)
    here.answers = request_for(exported(tmp_path / "model", tmp_path / "other.onnx"))
    for _ in range(2):
        with pytest.raises(ParityError):
            here.open()
    assert not list(engine_cache.root().glob(f"*/{engine_cache.SEAL}"))
    here.answers = here.spec
    here.open()
    assert here.opened == 3
