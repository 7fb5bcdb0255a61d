"""What is read of a timm checkpoint without timm: its architecture, its labels, its words."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from support.timm_folder import CONFIG, SHAPES, write_timm_folder
from vit_engine.artefact.contract import Pooling
from vit_engine.errors import CheckpointError, MachineError
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints.checkpoint import VectorOptions, load
from vit_export.cli import main
from vit_export.families.timm.vision_transformer import family_from_timm
from vit_export.packages import optional
from vit_export.packages.timm import labels_from_timm


def without(name: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in SHAPES.items() if not key.startswith(name)}


def test_a_model_as_either_library_saves_it(tmp_path: Path) -> None:
    plain = load(write_timm_folder(tmp_path / "timm"))
    wrapper = CONFIG | {
        "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperForImageClassification"],
        "label_names": ["LABEL_0", "LABEL_1", "LABEL_2"],
    }
    wrapped = load(write_timm_folder(tmp_path / "wrapper", wrapper, SHAPES, "timm_model."))
    assert plain.model_config == wrapped.model_config
    assert plain.output == wrapped.output == Scores(("LABEL_0", "LABEL_1", "LABEL_2"), "softmax")
    assert plain.tensors.keys() == wrapped.tensors.keys()
    assert (
        plain.model_config.heads,
        plain.model_config.tokens,
        plain.model_config.num_output_tokens,
    ) == (2, 5, 1)


@pytest.mark.parametrize(
    ("change", "shapes", "words"),
    [
        ({"architecture": "resnet50"}, SHAPES, ["'resnet50' is not supported", "EVA-02"]),
        ({"architecture": "swin_tiny_patch4_window7_224"}, SHAPES, ["is not supported"]),
        (
            {"architecture": "vit_base_patch16_siglip_gap_225"},
            SHAPES,
            ["vit_base_patch16_siglip_gap_225", "vit_base_patch16_siglip_gap_224"],
        ),
        ({"architecture": "naflexvit_base_patch16_gap"}, SHAPES, ["is not supported"]),
        ({"model_args": {"use_naflex": True}}, SHAPES, ["use_naflex"]),
        ({"model_args": {"qk_norm": True}}, SHAPES, ["qk_norm"]),
        ({"model_args": {"global_pool": "max"}}, SHAPES, ["'max'", "token"]),
        ({"model_args": {"act_layer": "mish", "num_heads": 2}}, SHAPES, ["'mish'", "gelu_tanh"]),
        ({"model_args": {"embed_dim": 16}}, SHAPES, ["16 channels", "must have num_heads"]),
        ({"model_args": {"num_heads": 2, "img_size": [32, 48]}}, SHAPES, ["[32, 48]", "squares"]),
        ({"num_classes": 0}, without("head"), ["backbone", "--embed"]),
        ({}, without("head"), ["no head", "--embed"]),
        ({}, without("cls_token") | {"pos_embed": (1, 4, 16)}, ["no cls_token"]),
        ({}, without("patch_embed.proj.weight"), ["patch_embed.proj.weight is missing"]),
        ({}, without("blocks.0.attn.proj.weight"), ["blocks.0.attn.proj.weight", "is missing"]),
        (
            {},
            SHAPES | {"blocks.0.attn.q_norm.weight": (8,)},
            ["unexpected tensor blocks.0.attn.q_norm.weight", "vit_tiny_patch16_224"],
        ),
        ({}, SHAPES | {"fc_norm.weight": (16,), "fc_norm.bias": (16,)}, ["before and after"]),
        ({}, SHAPES | {"pos_embed": (1, 7, 16)}, ["7 rows"]),
        ({"num_classes": 4}, SHAPES, ["head.weight", "expected (4, 16)"]),
    ],
)
def test_what_is_refused(
    tmp_path: Path, change: dict[str, Any], shapes: dict[str, tuple[int, ...]], words: list[str]
) -> None:
    with pytest.raises(CheckpointError) as refusal:
        load(write_timm_folder(tmp_path, CONFIG | change, shapes))
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "pooling", "words"),
    [
        ({}, "map", "--pool map: this model has cls, mean, cls+mean"),
        (
            {"model_args": {"num_heads": 2, "global_pool": "avg"}},
            "pooler",
            "has mean, cls, cls+mean",
        ),
        ({"model_args": {"num_heads": 2, "global_pool": ""}}, "cls", "global_pool is ''"),
    ],
)
def test_a_pooling_that_it_lacks(
    tmp_path: Path, change: dict[str, Any], pooling: Pooling, words: str
) -> None:
    folder = write_timm_folder(tmp_path, CONFIG | {"num_classes": 0} | change, without("head"))
    with pytest.raises(CheckpointError, match=re.escape(words)):
        load(folder, vectors=VectorOptions(pooling))


def test_a_distilled_model_gives_no_vectors(tmp_path: Path) -> None:
    """timm averages two tokens there."""
    shapes = SHAPES | {"dist_token": (1, 1, 16), "pos_embed": (1, 6, 16)}
    with pytest.raises(CheckpointError, match="the mean of two tokens"):
        load(write_timm_folder(tmp_path, CONFIG, shapes), vectors=VectorOptions())


def test_labels() -> None:
    three = {"num_classes": 3, "pretrained_cfg": {}}
    names = {"label_names": ["n1", "n2", "n3"]}
    assert labels_from_timm(three) == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert labels_from_timm(three | names) == ("n1", "n2", "n3")
    described = {"label_descriptions": {"n1": "one", "n3": "three"}}
    assert labels_from_timm(three | names | described) == ("one", "n2", "three")
    table = {"label_names": {"2": "n3", "0": "n1", "1": "n2"}}
    assert labels_from_timm(three | table) == ("n1", "n2", "n3")
    within = {"pretrained_cfg": {"num_classes": 2, "label_names": ["a", "b"]}}
    assert labels_from_timm(within) == ("a", "b")
    imagenet = labels_from_timm({"num_classes": 1000, "pretrained_cfg": {}})
    assert (imagenet[0], imagenet[999]) == (
        "tench, Tinca tinca",
        "toilet tissue, toilet paper, bathroom tissue",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label_names": ["a", "b"]}, "2 names, num_classes is 3"),
        ({"label_names": {"0": "a", "2": "b", "3": "c"}}, "without gaps"),
        ({"label_names": ["a", 1, "c"]}, "list of names"),
        ({"num_classes": "3"}, "num_classes is '3'"),
        ({"num_classes": 0}, "backbone"),
    ],
)
def test_labels_that_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        labels_from_timm({"num_classes": 3, "pretrained_cfg": {}} | change)


@pytest.mark.parametrize(
    ("torch", "line"),
    [
        (
            "2.13.0+cpu",
            r"--extra-index-url https://\S+/cpu torch==2.13.0\+cpu torchvision .*\[timm\]'",
        ),
        ("2.13.0", r"install torch==2.13.0 torchvision .*\[timm\]'"),
    ],
)
def test_without_timm_the_line_to_paste_keeps_torch(
    torch: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_timm_folder(tmp_path / "timm")
    for absent in ("timm", "timm.data", "vit_export.artefact"):  # the last begins the long work
        monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr(optional, "version", lambda _: torch)
    monkeypatch.setattr(sys, "argv", ["vit-export", folder, "-o", str(tmp_path / "vit.onnx")])
    with pytest.raises(MachineError, match=rf"{line}, or export with --no-verify") as refusal:
        main()
    assert refusal.value.exit_code == 4
    with pytest.raises(MachineError, match=line):
        labels_from_timm({"num_classes": 11821, "pretrained_cfg": {}})


def test_a_tag_behind_the_architecture_says_how_it_was_trained() -> None:
    family = family_from_timm(CONFIG | {"architecture": "vit_tiny_patch16_224.augreg_in21k"})
    assert family.architecture == "vit_tiny_patch16_224"
