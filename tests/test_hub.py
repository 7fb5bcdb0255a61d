"""The real hub clients, run by vit-export, against a hub of our own, good and bad."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from loopback_hub import COMMIT, MODEL, serving
from vit_engine.errors import CheckpointError
from vit_export.checkpoints.hub import chosen_files

HUBS = {"modelscope": MODEL, "hugging_face": "hf:" + MODEL}
WANTED = ["config.json", "model.safetensors", "preprocessor_config.json"]

each_hub = pytest.mark.parametrize("name", HUBS.values(), ids=HUBS.keys())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny model as a repository holds it: weights in three formats, and files of other uses."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 16}))
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "configuration.json"):
        (folder / name).write_bytes(b"not to be fetched")
    return folder


@pytest.fixture
def hub(published):
    with serving(published) as hub:
        yield hub


@pytest.fixture
def export(hub, tmp_path):
    """Run vit-export on a model of the hub, with a cache of this test's own."""
    home = tmp_path / "home"
    output = tmp_path / "vit.onnx"

    def run(*arguments, url=hub.url):
        environment = os.environ | {
            "HOME": str(home),
            "MODELSCOPE_ENDPOINT": url,
            "MODELSCOPE_CACHE": str(home / "modelscope"),
            "MODELSCOPE_HOME": str(home / "modelscope"),
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
            "HF_ENDPOINT": url,
            "HF_HOME": str(home / "huggingface"),
            "NO_PROXY": "127.0.0.1",
        }
        result = subprocess.run(
            [sys.executable, "-m", "vit_export.cli", *arguments, "--no-verify", "-o", str(output)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.stdout == ""
        assert "Traceback" not in result.stderr, result.stderr
        assert output.exists() == (result.returncode == 0)
        return result

    return run


def refused(result, *words):
    """The last line on stderr tells what happened, and the exit code is that of a checkpoint."""
    assert result.returncode == 2
    message = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in message, message


@each_hub
def test_download_then_cache_then_offline(hub, export, tmp_path, name):
    assert export(name).returncode == 0
    assert sorted(hub.fetched) == WANTED
    assert export(name).returncode == 0
    assert sorted(hub.fetched) == WANTED  # no body a second time
    assert export(name, "--offline", url="http://127.0.0.1:9").returncode == 0
    from vit_engine.engine import Engine

    with Engine.open(tmp_path / "vit.onnx") as engine:
        identity = engine.contract.identity
    assert identity.model == name
    assert identity.revision == (COMMIT if name.startswith("hf:") else "master")


@each_hub
def test_offline_without_a_copy(hub, export, name):
    refused(export(name, "--offline"), name, "not in the local cache", "--offline")
    assert hub.fetched == []


@pytest.mark.parametrize("name", ["someone/else", "hf:someone/else"])
def test_an_unknown_model(export, name):
    refused(export(name), name, "no such model or revision (404)")


@each_hub
def test_an_unknown_revision(export, name):
    refused(export(name, "--revision", "v9"), name, "no such model or revision (404)")


@each_hub
def test_nobody_answers(export, name):
    refused(export(name, url="http://127.0.0.1:9"), name, "refused", "check the network")


@each_hub
def test_a_wrong_hash_is_not_used_then_or_later(hub, export, name):
    hub.wrong.add("model.safetensors")
    refused(export(name), name, "model.safetensors", hub.sha256("model.safetensors")[:16])
    refused(export(name, "--offline"), name, "no model.safetensors")
    hub.wrong.clear()
    assert export(name).returncode == 0


@each_hub
def test_a_cut_body_is_not_used_then_or_later(hub, export, name):
    hub.cut.add("model.safetensors")
    refused(export(name), name, "bytes", "expected")  # so many and so many
    refused(export(name, "--offline"), name, "no model.safetensors")
    hub.cut.clear()
    assert export(name).returncode == 0


@each_hub
def test_a_path_that_leaves_the_folder(hub, export, name):
    hub.listed_besides.append("../evil.safetensors")
    refused(export(name), name, "'../evil.safetensors'", "leaves the model's folder")
    assert hub.fetched == []


@pytest.mark.parametrize("path", ["..", "/tmp/evil", "a/../../evil", "..\\evil"])
def test_other_paths_that_leave_the_folder(path):
    with pytest.raises(CheckpointError, match="leaves the model's folder"):
        chosen_files(["config.json", "preprocessor_config.json", "model.safetensors", path])


@each_hub
def test_a_repository_without_what_is_needed(hub, export, name):
    del hub.files["preprocessor_config.json"]
    refused(export(name), name, "lists no preprocessor_config.json")
    assert hub.fetched == []


def test_one_set_of_weights_is_chosen():
    configs = ["config.json", "preprocessor_config.json"]
    safe = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    bins = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    shards = [
        *configs,
        "model.safetensors.index.json",
        *safe,
        "pytorch_model.bin.index.json",
        *bins,
    ]
    assert chosen_files([*shards, "model.safetensors"]) == [*configs, "model.safetensors"]
    assert chosen_files(shards) == [*configs, "model.safetensors.index.json", *safe]
    only_bins = [name for name in shards if "safetensors" not in name]
    assert chosen_files(only_bins) == [*configs, "pytorch_model.bin.index.json", *bins]
    with pytest.raises(CheckpointError, match=r"no model.safetensors and no pytorch_model.bin"):
        chosen_files([*configs, "flax_model.msgpack", "onnx/model.safetensors"])
