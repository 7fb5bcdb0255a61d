"""Several devices: each has batches at the same time, and results come in the order of the images.

Devices are the CPU here; tests/providers/test_cuda.py has GPUs that compute nothing.
"""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support import ROOT
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.classifier import Classifier
from vit_engine.engine import Engine
from vit_engine.errors import ProviderError, UsageError
from vit_engine.options import EngineOptions
from vit_engine.providers.cpu import CPU
from vit_engine.providers.provider import Provider, Session, SessionSpec

EXAMPLES = sorted(map(str, (ROOT / "examples").glob("*-01.*")))


class Device:
    """A session on the CPU, that runs a batch while each of the others does."""

    largest = 2

    def __init__(self, session: Session, together: threading.Barrier) -> None:
        self._session, self._together = session, together
        self.is_open = True

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        self._together.wait(20)
        return self._session.run(inputs)

    def close(self) -> None:
        self._session.close()
        self.is_open = False


class Devices:
    """A provider of three devices, of which one may be missing."""

    def __init__(self, missing: int | None = None) -> None:
        self._together, self._missing = threading.Barrier(3), missing
        self.opened: list[Device] = []
        self.provider: Provider = replace(CPU, open=self._open, in_flight=1)
        path = path_from_name("demo")
        self.spec = SessionSpec(path, read_contract(path), EngineOptions(devices=(0, 1, 2)))

    def _open(self, spec: SessionSpec, largest: int) -> Session:
        assert spec.options.devices == ()
        assert not spec.options.cuda_graphs  # a capture would forbid the others to allocate
        if spec.options.device == self._missing:
            raise ProviderError("it is gone")
        device = Device(CPU.open(spec, largest), self._together)
        self.opened.append(device)
        return device


@pytest.mark.usefixtures("bounded")
def test_devices_share_the_batches_of_one_run(vit: Classifier) -> None:
    devices = Devices()
    open_session = lambda largest: devices.provider.open_on_devices(devices.spec, largest)  # noqa: E731
    engine = Engine(devices.spec.contract, "cpu", open_session, max_batch=2, in_flight=3)
    images = EXAMPLES[:12]  # 6 batches
    with Classifier(engine) as model:
        found = [(p.path, p.label) for p in model.classify(images)]
    assert found == [(p.path, p.label) for p in vit.classify(images, batch=2)]
    assert len(devices.opened) == 3 and not any(each.is_open for each in devices.opened)


def test_where_one_device_cannot_be_opened_none_stays_open() -> None:
    devices = Devices(missing=1)
    with pytest.raises(ProviderError, match="it is gone"):
        devices.provider.open_on_devices(devices.spec, 2)
    assert len(devices.opened) == 2 and not any(each.is_open for each in devices.opened)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": (0, 1, 0)}, "devices 0, 1, 0: each GPU can be named once"),
        ({"devices": (0, 1), "provider": "openvino"}, "device 0, 1: .* openvino provider has none"),
        ({"devices": (0, -1)}, "a device is -1, it must be at least 0"),
    ],
)
def test_devices_that_make_no_sense(
    tiny_artefact: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Classifier.load(tiny_artefact, **changes)


def test_several_devices_are_never_the_cpu() -> None:
    assert EngineOptions(devices=(0, 1)).provider == "cuda"
