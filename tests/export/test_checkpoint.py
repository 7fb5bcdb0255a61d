"""Checkpoints in every supported form come out equal; everything else is refused in one line."""

import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import ImageClassificationPipeline, ViTConfig, ViTForImageClassification

from vit_engine.errors import CheckpointError, MachineError, UsageError
from vit_engine.outputs.scores import ScoreOptions, Scores
from vit_export.checkpoints.checkpoint import load
from vit_export.families.model_config import ModelConfig
from vit_export.packages.labels import labels_from_config, remark_on, score_from_config
from vit_export.packages.optional import importing
from vit_export.verify import check_preprocessing

SIZE = 24
QUERY = "vit.encoder.layer.0.attention.attention.query"
POSITIONS = "vit.embeddings.position_embeddings"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        image_size=SIZE,
        patch_size=8,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-5,
        id2label=dict(enumerate(("ant", "bee", "cat", "dog", "eel"))),
    )
    return ViTForImageClassification(config)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A folder as `save_pretrained` writes it, with a preprocessor config of the old form."""
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    model.save_pretrained(folder)
    old = {"do_normalize": True, "do_resize": True, "size": SIZE}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """The same, to be spoilt."""
    return shutil.copytree(saved, tmp_path / "tiny")


def edit(folder, file, **changes):
    path = folder / file
    document = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in document.items() if value is not ...}
    path.write_text(json.dumps(kept))


def tensors_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_numbers_and_names_of_a_saved_model(saved, model):
    checkpoint = load(str(saved))
    assert checkpoint.model_config == ModelConfig(
        hidden_size=12,
        layers=2,
        heads=3,
        intermediate_size=20,
        image_size=SIZE,
        patch_size=8,
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
    )
    assert (checkpoint.model, checkpoint.revision) == ("tiny", None)
    assert checkpoint.output.labels == ("ant", "bee", "cat", "dog", "eel")
    own = {parameter.numpy().tobytes() for parameter in model.state_dict().values()}
    assert {tensor.tobytes() for tensor in checkpoint.tensors.values()} == own
    assert all(tensor.dtype == np.float32 for tensor in checkpoint.tensors.values())


def test_real_weights(test_data):
    checkpoint = load(str(test_data / "deit-tiny-imagenet1k"))
    assert len(checkpoint.output.labels) == 1000
    assert checkpoint.output.labels[281] == "tabby, tabby cat"
    assert checkpoint.preprocessing.filter == "bicubic"
    assert checkpoint.preprocessing.mean == (0.485, 0.456, 0.406)
    assert len(checkpoint.tensors) == 200


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_what_is_wrong_is_told_in_the_names_of_the_file(folder, model):
    whole, name = model.state_dict(), "vit.layers.1.mlp.fc2.weight"
    save_file({n: t for n, t in whole.items() if n != name}, folder / "model.safetensors")
    refused(folder, f"tensor {name} (12, 20) is missing")
    save_file(whole | {name: torch.ones(20, 12)}, folder / "model.safetensors")
    refused(folder, f"tensor {name} has shape (20, 12), expected (12, 20)")
    save_file(whole | {name: torch.full((12, 20), torch.nan)}, folder / "model.safetensors")
    refused(folder, f"tensor {name} holds NaN")
    edit(folder, "config.json", num_hidden_layers=1)
    refused(folder, "unexpected tensor vit.layers.1.")


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_shards_and_pickles_mean_the_same_as_one_file(folder, safe):
    expected = load(str(folder))
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    stem, suffix, save = (
        ("model", "safetensors", save_file) if safe else ("pytorch_model", "bin", torch.save)
    )
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    shards = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
    for name, shard in zip(names, shards, strict=True):
        save(shard, folder / name)
    index = {n: file for file, shard in zip(names, shards, strict=True) for n in shard}
    table = folder / f"{stem}.{suffix}.index.json"
    table.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    sharded = load(str(folder))
    assert_same(sharded.tensors, expected.tensors)
    assert sharded.weights_sha256 != expected.weights_sha256

    (folder / names[1]).unlink()
    refused(folder, names[1], "missing")
    table.write_text(json.dumps({"weight_map": {"x": "../tiny/elsewhere." + suffix}}))
    refused(folder, "'../tiny/elsewhere", "beside it")


def test_a_whole_pickle_is_read_but_its_code_is_not_run(folder):
    expected = load(str(folder)).tensors
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert_same(load(str(folder)).tensors, expected)

    class Hostile:
        def __reduce__(self):
            return (folder / "ran").touch, ()

    torch.save({"vit.layernorm.bias": Hostile()}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "more than weights")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_is_widened_without_loss(folder, dtype):
    widest = torch.promote_types(dtype, torch.float32)
    whole = load(str(folder)).tensors
    expected = {n: torch.from_numpy(t).to(dtype).to(widest).numpy() for n, t in whole.items()}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_of(folder).items()}
    save_file(tensors, folder / "model.safetensors")
    found = load(str(folder)).tensors
    assert_same(found, expected)
    assert {t.dtype for t in found.values()} == {t.dtype for t in expected.values()}


def test_a_pooler_is_passed_over(folder):
    tensors, expected = tensors_of(folder), load(str(folder)).tensors
    pooler = {"vit.pooler.dense.weight": torch.ones(12, 12), "vit.pooler.dense.bias": torch.ones(2)}
    save_file(tensors | pooler, folder / "model.safetensors")
    assert_same(load(str(folder)).tensors, expected)


def test_query_key_and_value_without_bias(folder):
    tensors, expected = tensors_of(folder), load(str(folder)).tensors
    kept = {n: t for n, t in tensors.items() if not n.endswith(("ry.bias", "key.bias", "ue.bias"))}
    save_file(kept, folder / "model.safetensors")
    refused(folder, f"tensor {QUERY}.bias", "missing")
    edit(folder, "config.json", qkv_bias=False)
    biases = {f"blocks.{i}.{part}.bias" for i in (0, 1) for part in "qkv"}
    assert_same(load(str(folder)).tensors, {n: t for n, t in expected.items() if n not in biases})


def test_labels_that_the_config_leaves_out(folder):
    edit(folder, "config.json", id2label=..., num_labels=5)
    assert load(str(folder)).output.labels == tuple(f"LABEL_{i}" for i in range(5))
    edit(folder, "config.json", num_labels=...)  # transformers then takes two
    refused(folder, "classifier.weight", "(5, 12)", "(2, 12)")


def test_labels_that_are_numbers_or_have_no_name(folder):
    edit(folder, "config.json", id2label={"0": 7, "01": "bee", "2": None, "3": 0.5, "4": True})
    assert load(str(folder)).output.labels == ("7", "bee", "LABEL_2", "0.5", "True")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("LABEL_0", "LABEL_1"), "names no labels"),
        (("x", "x"), "all 2 labels are called 'x'"),
        (("x", "x", "y"), None),
        (("x",), None),
    ],
)
def test_labels_that_tell_nothing_are_remarked_on(labels, words):
    remark = remark_on(labels)
    assert remark is None if words is None else words in remark


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", None])
def test_scores_are_those_of_the_pipeline(labels, problem):
    """Which function transformers' own pipeline applies, found by what it makes of some logits."""
    config = ViTConfig(num_labels=labels, problem_type=problem)
    logits = torch.tensor([[-1.0, 2.0, 0.5][:labels]])
    asked = SimpleNamespace(model=SimpleNamespace(config=config))
    rows = ImageClassificationPipeline.postprocess(asked, {"logits": logits})
    names = labels_from_config(config.to_dict() | {"id2label": None, "num_labels": labels})
    kind = score_from_config(config.to_dict(), labels)
    output = Scores(names, kind)
    (ours,) = output.results(logits.numpy(), output.selection(ScoreOptions()))
    assert [score.label for score in ours.topk] == [row["label"] for row in rows]
    scores = [score.score for score in ours.topk]
    np.testing.assert_allclose(scores, [row["score"] for row in rows], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "labels", "score"),
    [
        ({}, 2, "softmax"),
        ({}, 1, "sigmoid"),
        ({"problem_type": "single_label_classification"}, 2, "softmax"),
        ({"function_to_apply": "sigmoid"}, 2, "softmax"),
        ({"function_to_apply": "softmax"}, 1, "sigmoid"),
    ],
)
def test_what_the_config_says_of_scores(config, labels, score):
    assert score_from_config(config, labels) == score


def test_one_label_is_never_a_choice_among_one():
    with pytest.raises(CheckpointError, match="one label"):
        score_from_config({"problem_type": "single_label_classification"}, 1)


def refused(folder, *words):
    with pytest.raises(CheckpointError) as caught:
        load(str(folder))
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "swin"}, ["'swin'", "supported are image classifiers of model_type vit"]),
        ({"model_type": ...}, ["None", "vit, deit"]),
        ({"architectures": ["ViTModel"]}, ["ViTModel", "without a classifier's head"]),
        ({"architectures": ["ViTForMaskedImageModeling"]}, ["without a classifier's head"]),
        ({"architectures": ["ViTForOther"]}, ["its classifiers are ViTForImageClassification"]),
        ({"architectures": "ViTModel"}, ["ViTModel", "supported"]),
        (
            {"model_type": "siglip2", "architectures": ["Siglip2ForImageClassification"]},
            ["NaFlex", "siglip"],
        ),
        ({"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}, ["resnet"]),
        ({"problem_type": "ranking"}, ["problem_type is 'ranking'", "regression"]),
        ({"return_dict": False}, ["return_dict false"]),
        ({"num_labels": 4}, ["id2label names 5 labels, num_labels is 4"]),
        ({"num_channels": 1}, ["num_channels is 1"]),
        ({"hidden_act": "gelu_10"}, ["'gelu_10'", "quick_gelu"]),
        ({"hidden_act": ["gelu"]}, ["hidden_act"]),
        ({"layer_norm_eps": -1}, ["layer_norm_eps"]),
        ({"qkv_bias": "yes"}, ["qkv_bias"]),
        ({"hidden_size": 12.0}, ["hidden_size is 12.0", "whole number"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers is 0"]),
        ({"num_hidden_layers": 3}, ["vit.encoder.layer.2.", "missing"]),
        ({"num_hidden_layers": 1}, ["unexpected tensor vit.encoder.layer.1.", "more"]),
        ({"num_attention_heads": 5}, ["12 is not a multiple", "5"]),
        ({"intermediate_size": 21}, ["(20, 12)", "(21, 12)"]),
        ({"image_size": [24, 32]}, ["[24, 32]", "squares"]),
        ({"patch_size": 25}, ["24 is below", "25"]),
        ({"id2label": {"0": "ant", "1": "bee"}}, ["(5, 12)", "(2, 12)"]),
        ({"id2label": dict(enumerate("abcde", 1))}, ["1, 2, 3, 4, 5", "count from 0", "0 to 4"]),
        ({"id2label": {0: "a", 2: "b", 3: "c"}}, ["names 0, 2, 3, expected each of 0 to 2 once"]),
        ({"id2label": {"0": "ant", "x": "bee"}}, ["id2label has the key 'x'"]),
        ({"id2label": {"0": "ant", "1": ["bee"]}}, ["id2label has ['bee'] for 1"]),
        ({"id2label": ["ant"]}, ["id2label"]),
        ({"id2label": {}}, ["id2label"]),
    ],
)
def test_configs_that_are_refused(folder, change, words):
    edit(folder, "config.json", **change)
    refused(folder, *words)


def test_a_square_given_as_two_numbers(folder):
    edit(folder, "config.json", image_size=[SIZE, SIZE], patch_size=[8, 8])
    assert load(str(folder)).model_config.image_size == SIZE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({QUERY + ".weight": ...}, [f"tensor {QUERY}.weight (12, 12) is missing"]),
        ({QUERY + ".weight": torch.ones(12, 11)}, [QUERY, "(12, 11)", "(12, 12)"]),
        ({QUERY + ".weight": torch.ones(144)}, [QUERY, "(144,)", "(12, 12)"]),
        ({POSITIONS: torch.ones(1, 9, 12)}, [POSITIONS, "(1, 9, 12)", "(1, 10, 12)"]),
        ({POSITIONS: torch.ones(2, 10, 12)}, [POSITIONS, "(2, 10, 12)", "(1, 10, 12)"]),
        ({"classifier.bias": torch.full((5,), torch.nan)}, ["classifier.bias holds NaN or Inf"]),
        ({"vit.layernorm.bias": torch.full((12,), -torch.inf)}, ["vit.layernorm.bias holds NaN"]),
        ({"vit.layernorm.bias": torch.ones(12, dtype=torch.int8)}, ["layernorm.bias is I8", "F16"]),
        ({"vit.embeddings.distillation_token": torch.ones(1, 1, 12)}, ["distillation_token"]),
        ({"distillation_classifier.bias": torch.ones(5)}, ["unexpected", "distillation_classif"]),
        ({"vit.layers.0.attention.q_proj.bias": torch.ones(12)}, ["a second time", QUERY]),
        ({"module.x": torch.ones(12)}, ["unexpected tensor module.x"]),
    ],
)
def test_weights_that_are_refused(folder, change, words):
    tensors = {n: t for n, t in (tensors_of(folder) | change).items() if t is not ...}
    save_file(tensors, folder / "model.safetensors")
    refused(folder, *words)


def test_files_of_openmmlab_are_refused(folder):
    (folder / "config.json").rename(folder / "config.py")
    (folder / "model.safetensors").rename(folder / "checkpoint.pth")
    refused(folder, "no config.json but a config.py", "OpenMMLab")


def test_the_processor_is_named_in_the_models_own_config(folder):
    edit(folder, "config.json", image_processor_type="BitImageProcessor")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 28, "crop_size": SIZE}))
    found = load(str(folder)).preprocessing
    assert (found.rule, found.filter, found.crop) == ("shortest_edge", "bicubic", (SIZE, SIZE))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_configs_that_are_absent_or_broken(folder, file):
    for text in ('{"size": ', "[]", "[" * 100_000, "\udcff"):
        (folder / file).write_text(text, errors="surrogateescape")
        refused(folder, f"{file} is ")
    (folder / file).unlink()
    if file == "config.json":
        refused(folder, f"{file} is missing")
    (folder / file).symlink_to("/not/there")
    refused(folder, f"{file} is a link to /not/there, which is not there")


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
def test_a_preprocessor_is_given_or_its_family_s(folder, size):
    path = folder / "preprocessor_config.json"
    given = json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    asked = size if size != SIZE else None
    assert load(str(folder), preprocessor=given).preprocessing.mean == (0.1, 0.2, 0.3)
    path.unlink()
    found = load(str(folder), image_size=asked)
    assert "images are prepared as a ViTImageProcessor does" in found.remarks[0]
    assert found.preprocessing.resize == (size, size)
    check_preprocessing(found)


@pytest.mark.parametrize(("size", "near"), [(70, "64 or 72"), (7, "8"), (SIZE + 1, "24 or 32")])
def test_a_size_that_patches_do_not_fill_names_those_that_they_do(folder, size, near):
    with pytest.raises(UsageError, match=f"no multiple of its patch, 8: {near}$"):
        load(str(folder), image_size=size)


def test_a_trainer_s_folder_names_its_newest_checkpoint(folder):
    (folder / "config.json").unlink()
    for name in ("checkpoint-90", "checkpoint-1000", "checkpoint-last"):
        (folder / name).mkdir()
    refused(folder, "a Trainer's output folder", f"{folder / 'checkpoint-1000'}")


def test_what_training_leaves_in_the_weights_is_passed_over(folder):
    left = {
        "loss_fct.weight": torch.ones(5),
        "vit.embeddings.position_ids": torch.arange(10),
        "num_batches": torch.tensor(3),
    }
    save_file(tensors_of(folder) | left, folder / "model.safetensors")
    assert load(str(folder)).model_config.layers == 2
    torch.save(tensors_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load(str(folder)).model_config.layers == 2


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_wrapped_model_is_told(folder, prefix):
    wrapped = {prefix + name: tensor for name, tensor in tensors_of(folder).items()}
    save_file(wrapped, folder / "model.safetensors")
    refused(folder, f"names begin with {prefix}", "save the model inside the wrapper")


@pytest.mark.parametrize("length", [0, 7, 200, -1])
def test_weights_that_are_absent_or_broken(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(folder, "model.safetensors is truncated or corrupt")
    path.rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin is corrupt")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "no model.safetensors")


@pytest.mark.parametrize(
    "name", ["nowhere", "a/b/c", "hf:nowhere", "../x", "/no/folder", "", "a/..", "x" * 5000]
)
def test_names_that_are_no_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="is neither a folder nor a model id; expected"):
        load(name)


def test_a_folder_wins_over_an_id_and_has_no_revision(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(saved.parent)
    shutil.copytree(saved, tmp_path / "owner/name")
    monkeypatch.chdir(tmp_path)
    assert load("owner/name").model == "name"
    with pytest.raises(UsageError, match="--revision is for models on a hub"):
        load("owner/name", revision="v1")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_git_lfs_pointer_is_named(folder, file):
    (folder / file).write_bytes(POINTER)
    refused(folder, f"{file} is a Git LFS pointer, not the ", f"run git lfs pull in {folder}")


def test_a_git_lfs_pointer_in_place_of_a_pickle_or_a_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    table = {"weight_map": {"x": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    (folder / "model-00001-of-00001.safetensors").write_bytes(POINTER)
    refused(folder, "model-00001-of-00001.safetensors is a Git LFS pointer, not the weights")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(POINTER)
    refused(folder, "pytorch_model.bin is a Git LFS pointer, not the weights")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("adapter_config.json", ["an adapter (LoRA)", "merge_and_unload"]),
        ("adapter_model.safetensors", ["an adapter (LoRA)", "merge_and_unload"]),
        ("model_index.json", ["diffusers pipeline"]),
        ("modules.json", ["sentence-transformers"]),
    ],
)
def test_a_file_that_makes_the_folder_something_else(folder, file, words):
    (folder / file).write_text("{}")
    refused(folder, file, *words)
    (folder / "config.json").unlink()
    refused(folder, file, *words)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("tf_model.h5", "TensorFlow's weights"),
        ("flax_model.msgpack", "Flax's weights"),
        ("best.pth", "timm.models.save_for_hf(model, 'folder')"),
        ("checkpoint.pt", "model.save_pretrained('folder')"),
        ("vit.gguf", "a GGUF model"),
        ("model.onnx", "an ONNX model"),
        ("other.safetensors", "another name, expected model.safetensors"),
    ],
)
def test_weights_in_a_file_that_is_not_read(folder, file, words):
    (folder / "model.safetensors").rename(folder / file)
    refused(folder, "no model.safetensors and no pytorch_model.bin", f"{file} holds ", words)


def test_a_pickle_of_something_else_is_named(folder, model):
    weights = model.state_dict()
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    for whole in (model, {"model": model}):
        torch.save(whole, path)
        refused(folder, "a whole model", "ViTForImageClassification", "model.state_dict()")
    torch.save({"epoch": 3, "optimizer": {"lr": 1}, "state_dict": weights}, path)
    refused(folder, "is a training checkpoint, with 'epoch', 'optimizer'", "['state_dict']")
    torch.save({"model": weights}, path)
    refused(folder, "is a training checkpoint, with 'model'", "torch.load('pytorch_model.bin')")
    torch.save(weights | {"epoch": 3}, path)
    refused(folder, "holds 'epoch', which is not a tensor with a name")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    refused(folder, "a TorchScript program")


def test_a_quantised_checkpoint_is_named(folder):
    edit(folder, "config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(folder, "quantization_config (bitsandbytes)", "quantised already")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("vit.gguf", b"GGUF\3\0", "is a GGUF model"),
        ("vit.onnx", b"\x08\x07", "is an ONNX model"),
        ("model.safetensors", b"", "is a file"),
        ("model.safetensors", POINTER, "is a Git LFS pointer"),
    ],
)
def test_a_file_in_place_of_a_folder(tmp_path, file, content, words):
    (tmp_path / file).write_bytes(content)
    refused(tmp_path / file, file, words)


def test_texts_that_are_not_utf8(folder):
    path = folder / "config.json"
    whole = path.read_text()
    path.write_bytes(whole.replace('"ant"', '"caf\xe9"').encode("latin-1"))
    refused(folder, "config.json is not readable JSON: it is not UTF-8", "save it as UTF-8")
    path.write_text(whole.replace('"ant"', r'"\ud800"'))
    refused(folder, "config.json is not readable JSON: it is not UTF-8")
    path.write_text(whole.replace('"ant"', r'"\ud83d\ude00"'))  # a pair is a character
    assert load(str(folder)).output.labels[0] == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision is of another"),
        (ModuleNotFoundError("No module named 'timm'"), "No module named 'timm'.: pip install it"),
        (OSError("undefined symbol: x"), "undefined symbol: x.: pip install it"),
    ],
)
def test_a_broken_optional_library_is_told_with_its_cure(error, words):
    match = f"it is timm's, and that cannot .*{words}"
    needed = importing(needed="it is timm's", install="pip install it")
    with pytest.raises(MachineError, match=match) as caught, needed:
        raise error
    assert "\n" not in str(caught.value)
