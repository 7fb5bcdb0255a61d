"""A state dict of timm's, as training saves it, is exported by the name of its architecture."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from support import Run
from vit_engine.artefact.metadata import read_contract

timm = pytest.importorskip("timm", reason="timm is not installed")

ARCHITECTURE = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURE, num_classes=3, img_size=64, depth=1)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def behind(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def export(run_command: Run, weights: Path, *options: str | Path) -> Any:
    labels = weights.with_name("labels.txt")
    if not labels.exists():
        labels.write_text("crane\ncrane\nbee\n")
    line = ["--arch", ARCHITECTURE, "--weights", weights, "--labels", labels, *options]
    return run_command("vit-export", *line, "--fp32", "-o", weights.with_name("m.onnx"))


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("plain", []),
        ("timm", ["those under 'state_dict_ema'", "'module.' is taken off"]),
        ("lightning", ["under 'state_dict'", "'model._orig_mod.'", "left out loss_fn.weight"]),
        ("average", ["'ema_model.module.' is taken off", "left out model.cls_token"]),
    ],
)
def test_layouts_of_training(
    layout: str, words: list[str], state: dict[str, Any], run_command: Run, tmp_path: Path
) -> None:
    worse = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    lightning = behind("model._orig_mod.", state) | {"loss_fn.weight": torch.ones(3)}
    content: dict[str, Any] = {
        "plain": state,
        "timm": {
            "state_dict": worse,
            "state_dict_ema": behind("module.", state),
            "args": argparse.Namespace(lr=0.1),
        },
        "lightning": {"state_dict": lightning, "epoch": 3},
        "average": behind("model.", worse) | behind("ema_model.module.", state),
    }[layout]
    torch.save(content, tmp_path / "best.pth")
    ended = export(run_command, tmp_path / "best.pth")
    assert ended.returncode == 0, ended.stderr
    assert "verified" in ended.stderr
    assert all(word in ended.stderr for word in words), ended.stderr
    contract = read_contract(tmp_path / "m.onnx")
    assert contract.output.labels == ("crane", "crane", "bee")
    assert (contract.input.height, contract.preprocessing.std) == (64, (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ({"conv1.weight": torch.ones(2)}, [], "no ViT of timm's; its first tensors are conv1"),
        (torch.ones(2), [], "not a table of weights"),
        (None, ["--arch", "vit_nothing"], "none of timm's"),
        (None, ["--arch", "resnet18"], "'resnet18' is not supported"),
        (None, ["--template", "a {}"], "--template is for zero-shot labels"),
        (None, ["--preprocessor", "x.json"], "x.json is missing"),
        ("labels", [], "--labels has 2 labels, best.pth gives 3"),
        ("absent", [], "best.pth is not there"),
    ],
)
def test_what_is_refused(
    content: Any,
    options: list[str],
    words: str,
    *,
    state: dict[str, Any],
    run_command: Run,
    tmp_path: Path,
) -> None:
    if content == "labels":
        (tmp_path / "labels.txt").write_text("ant\nbee\n")
    if not isinstance(content, str) or content != "absent":
        own = content is None or isinstance(content, str)
        torch.save(state if own else content, tmp_path / "best.pth")
    ended = export(run_command, tmp_path / "best.pth", *options)
    assert (ended.returncode, words in ended.stderr) == (2, True), ended.stderr
