"""TensorRT without a GPU: the cache of engines, and the built engine's check.

The provider itself is not here to be run; `compare.py --device cuda` does that where one is.
"""

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from support import children, wait_until, write_checkpoint
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


@pytest.fixture
def built() -> EngineCache:
    """A cache that holds what a build would leave."""
    found = EngineCache.of({"artefact": "a"})
    (found.folder / "model.engine").write_bytes(b"code")
    (found.folder / "model.profile").write_bytes(b"shapes")
    (found.folder / "kernels.timing").write_bytes(b"times")
    found.commit()
    return found


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
    assert tensorrt.options(whole, 8, "/c")["trt_fp16_enable"] == "0"
    found = tensorrt.options(half, 8, "/c")
    assert found["trt_fp16_enable"] == "1"
    assert found["trt_profile_min_shapes"] == "pixel_values:1x3x32x32"
    assert tensorrt.profile(whole.contract.input, 8) == {
        "trt_profile_min_shapes": "pixels:1x32x32x3",
        "trt_profile_opt_shapes": "pixels:8x32x32x3",
        "trt_profile_max_shapes": "pixels:8x32x32x3",
    }


def test_folders_are_for_their_user_alone(built: EngineCache) -> None:
    for folder in (built.folder, engine_cache.root(), engine_cache.root().parent):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_folder_that_others_can_write_to_is_refused(built: EngineCache, depth: int) -> None:
    folder = (built.folder, engine_cache.root(), engine_cache.root().parent)[depth]
    for mode in (0o777, 0o720, 0o1777):
        folder.chmod(mode)
        with pytest.raises(ProviderError, match=r"others can write to this cache .*chmod 700"):
            EngineCache.of(built.key)
    folder.chmod(0o755)  # reading is no danger
    assert EngineCache.of(built.key).is_valid()


def test_a_link_in_the_place_of_a_folder_is_refused(built: EngineCache, tmp_path: Path) -> None:
    built.folder.rename(tmp_path / "elsewhere")
    built.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProviderError, match="others can write"):
        EngineCache.of(built.key)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(built: EngineCache) -> None:
    os.chown(built.folder, 65534, 65534)
    with pytest.raises(ProviderError, match="owner 65534"):
        EngineCache.of(built.key)


def test_a_place_without_a_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(ProviderError, match="set XDG_CACHE_HOME"):
        EngineCache.of({})


def test_engines_are_used_as_they_were_built_or_not_at_all(
    built: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    assert built.is_valid()
    (built.folder / "kernels.timing").write_bytes(b"better times")
    assert built.is_valid()
    engine = built.folder / "model.engine"
    for damage in (b"", b"cod", b"other code"):
        engine.write_bytes(damage)
        assert not built.is_valid()
        assert "is damaged; building it again" in caplog.text
    engine.write_bytes(b"code")
    assert built.is_valid()
    (built.folder / "planted.engine").write_bytes(b"more code")
    assert not built.is_valid()
    built.clear()
    assert not list(built.folder.iterdir())
    assert built.folder.stat().st_mode & 0o777 == 0o700


def test_a_seal_is_of_its_own_key_and_whole(built: EngineCache) -> None:
    commit = built.folder / engine_cache.SEAL
    text = commit.read_text()
    for bad in (text[:-5], "[]", text.replace('"a"', '"b"')):
        commit.write_text(bad)
        assert not built.is_valid()


def test_a_build_that_was_interrupted_counts_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    found = EngineCache.of({"artefact": "a"})
    (found.folder / "model.engine").write_bytes(b"half of it")
    assert not found.is_valid()
    assert not caplog.text  # nothing to tell: it was never finished
    found.clear()
    with pytest.raises(ProviderError, match="stored no engine"):
        found.commit()


def test_two_processes_do_not_build_at_once(caplog: pytest.LogCaptureFixture) -> None:
    context = multiprocessing.get_context("spawn")
    held, released = context.Event(), context.Event()
    other = context.Process(target=children.hold_cache, args=(held, released))
    other.start()
    assert held.wait(60)
    words = "waiting for another process that is building this TensorRT engine"

    def release() -> None:
        wait_until(lambda: words in caplog.text)
        released.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    with EngineCache.of({"artefact": "a"}).locked():
        assert words in caplog.text
        assert released.is_set()
    releasing.join()
    other.join(60)
    assert other.exitcode == 0


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
