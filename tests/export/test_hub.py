"""The real hub clients, as vit-export runs them, against a hub of our own, good and bad."""

import json
import os
from contextlib import contextmanager

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from support import slow_case
from support.commands import Forks
from support.loopback_hub import COMMIT, MODEL, serving
from support.timm_folder import write_timm_folder
from vit_engine.errors import CheckpointError
from vit_export.checkpoints.hub import chosen_files, download
from vit_export.checkpoints.hub_failure import MODELSCOPE, reason_in_words

HUBS = {"modelscope": MODEL, "hugging_face": "hf:" + MODEL}
WANTED = ["config.json", "model.safetensors", "preprocessor_config.json"]

each_hub = pytest.mark.parametrize("name", HUBS.values(), ids=HUBS.keys())
one_hub_first = pytest.mark.parametrize(
    "name",
    [HUBS["modelscope"], slow_case(HUBS["hugging_face"])],
    ids=HUBS.keys(),
)


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


@pytest.fixture(scope="module")
def loading():
    """What the hubs' clients import, but for what reads the environment as it is imported."""
    with Forks("support.hub_load", "requests", "packaging.requirements", "yaml") as forks:
        yield forks


@pytest.fixture
def fetch(hub, loading, tmp_path):
    """Load a model of the hub in a process, with a cache of this test's own."""
    home = tmp_path / "home"

    def run(*arguments, url=hub.url, **variables):
        environment = os.environ | {
            "HOME": str(home),
            "MODELSCOPE_ENDPOINT": url,
            "MODELSCOPE_CACHE": str(home / "modelscope"),
            "MODELSCOPE_HOME": str(home / "modelscope"),
            "MODELSCOPE_API_MAX_RETRIES": "0",
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
            "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "0",
            "HF_ENDPOINT": url,
            "HF_HOME": str(home / "huggingface"),
            "NO_PROXY": "127.0.0.1",
        }
        environment |= {name: str(value) for name, value in variables.items()}
        result = loading.run("vit-export", "support.hub_load", arguments, env=environment)
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return run


def refused(result, *words):
    """The last line on stderr tells what happened, and the exit code is that of a checkpoint."""
    assert result.returncode == 2
    assert result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in message, message


@one_hub_first
def test_download_then_cache_then_offline(hub, fetch, name):
    silent = "http://127.0.0.1:9"
    refused(
        fetch(name, url=silent),
        f"{name}: cannot be downloaded from {silent}",
        "refused",
        "the network",
    )
    result = fetch(name)
    assert result.stdout == f"{name} {COMMIT if name.startswith('hf:') else 'master'}\n"
    assert sorted(hub.fetched) == WANTED
    assert fetch(name).returncode == 0
    assert sorted(hub.fetched) == WANTED  # no body a second time
    assert fetch(name, "--offline", url=silent).returncode == 0


@one_hub_first
def test_offline_without_a_copy(hub, fetch, name):
    refused(fetch(name, "--offline"), name, "not in the local cache", "--offline")
    assert hub.fetched == []


@one_hub_first
def test_an_unknown_revision(fetch, name):
    refused(fetch(name, "--revision", "v9"), name, "no such model or revision (404)")


@pytest.mark.slow
def test_an_unknown_model(fetch):
    refused(fetch("hf:someone/else"), "hf:someone/else", "no such model or revision (404)")


@contextmanager
def read_only(folder):
    places = [folder, *folder.rglob("*")]
    for place in places:
        if not place.is_symlink():
            place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        yield
    finally:
        for place in places:
            if place.is_dir():
                place.chmod(0o755)


CACHE = {"modelscope": "MODELSCOPE_CACHE", "hugging_face": "HF_HOME"}
each_cache = pytest.mark.parametrize(
    ("name", "variable"), [(HUBS[hub], CACHE[hub]) for hub in HUBS], ids=HUBS.keys()
)


def locally_refused(result, *words):
    """Refused with a cause that lies on this machine, and no word of the network's."""
    refused(result, *words)
    assert "check the network" not in result.stderr


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true"])
@each_hub
def test_an_offline_variable_acts_as_the_option(tmp_path, monkeypatch, name, variable, value):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    monkeypatch.setenv(variable, value)
    with pytest.raises(CheckpointError, match=f"cache; run once without {variable}"):
        download(name, revision=None, offline=False)


@pytest.mark.slow
def test_an_offline_variable_may_say_no(fetch):
    assert fetch(HUBS["hugging_face"], HF_HUB_OFFLINE="0").returncode == 0


@pytest.mark.parametrize(
    ("name", "variable"), [("hf:" + MODEL, "HF_HOME"), slow_case(MODEL, "MODELSCOPE_CACHE")]
)
def test_a_cache_that_cannot_be_used(hub, fetch, tmp_path, name, variable):
    file = tmp_path / "file"
    file.touch()
    for place in (file / "below", *((file, "/dev/null") if name.startswith("hf:") else ())):
        result = fetch(name, **{variable: place})
        locally_refused(
            result, name, f"{place}", f"set {variable} to a folder that can be written", "--offline"
        )
    assert hub.fetched == []


@pytest.mark.slow
@each_cache
def test_a_cache_that_is_read_only(fetch, tmp_path, name, variable):
    home = tmp_path / "home"
    (home / "huggingface").mkdir(parents=True)
    (home / "modelscope").mkdir()
    with read_only(home):
        result = fetch(name, "--under", "no root")
        locally_refused(
            result, name, "Permission denied", f"set {variable} to a folder", "--offline"
        )
    if name.startswith("hf:"):
        assert fetch(name).returncode == 0
        with read_only(home):
            assert fetch(name, "--under", "no root").returncode == 0


@one_hub_first
def test_a_full_disk(hub, fetch, name):
    result = fetch(name, "--under", "small files")
    locally_refused(result, name, "a file would be larger than allowed")


PROXIES = {
    "socks": "socks5h://***@127.0.0.1:9",
    "no scheme": "***@127.0.0.1:9",
    "unknown scheme": "foo://***@127.0.0.1:9",
    "no number": "http://***@127.0.0.1:port",
    "no answer": "http://***@127.0.0.1:9",
}


@pytest.mark.parametrize(
    ("name", "proxy"),
    [(HUBS["modelscope"], PROXIES["no answer"]), (HUBS["hugging_face"], PROXIES["socks"])]
    + [slow_case(HUBS["hugging_face"], proxy) for proxy in list(PROXIES.values())[1:]],
)
def test_a_proxy_that_is_of_no_use_is_named(hub, fetch, name, proxy):
    result = fetch(name, NO_PROXY="", http_proxy=proxy.replace("***", "user:secret"))
    refused(result, name, "check the network, and what is set here: ", f"http_proxy={proxy}")
    assert "secret" not in result.stderr
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HF_ENDPOINT", "127.0.0.1:9"),
        slow_case("SSL_CERT_FILE", "/no/such.pem"),
    ],
)
def test_other_variables_are_named(fetch, variable, value):
    refused(fetch("hf:" + MODEL, **{variable: value}), f"{variable}={value}")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (HUBS["modelscope"], 503),
        (HUBS["hugging_face"], 403),
        slow_case(HUBS["modelscope"], 401),
        slow_case(HUBS["hugging_face"], 429),
    ],
)
def test_a_hub_that_answers_with_a_refusal(hub, fetch, name, status):
    hub.status = status
    words = "log in" if status < 429 else "try again later"
    locally_refused(fetch(name), name, str(status), words)


def test_an_adapter_in_the_listing(hub, fetch):
    name = HUBS["hugging_face"]
    hub.listed_besides.append("adapter_config.json")
    refused(fetch(name), name, "adapter_config.json", "merge_and_unload")
    assert hub.fetched == []


@one_hub_first
def test_a_wrong_hash_is_not_used_then_or_later(hub, fetch, name):
    hub.wrong.add("model.safetensors")
    digest = hub.sha256("model.safetensors")[:16]
    refused(fetch(name), name, "model.safetensors", digest, "try again")
    refused(fetch(name, "--offline"), name, "no model.safetensors")
    hub.wrong.clear()
    assert fetch(name).returncode == 0


@one_hub_first
def test_a_cut_body_is_not_used(hub, fetch, name):
    hub.cut.add("model.safetensors")
    refused(fetch(name), name, "bytes", "expected")  # so many and so many
    refused(fetch(name, "--offline"), name, "no model.safetensors")


@one_hub_first
def test_a_path_that_leaves_the_folder(hub, fetch, name):
    hub.listed_besides.append("../evil.safetensors")
    refused(fetch(name), name, "'../evil.safetensors'", "leaves the model's folder")
    assert hub.fetched == []


@pytest.mark.parametrize("path", ["..", "/tmp/evil", "a/../../evil", "..\\evil"])
def test_other_paths_that_leave_the_folder(path):
    with pytest.raises(CheckpointError, match="leaves the model's folder"):
        chosen_files(["config.json", "preprocessor_config.json", "model.safetensors", path])


def test_a_repository_without_what_is_needed(hub, fetch):
    name = HUBS["hugging_face"]
    config = hub.files.pop("config.json")
    refused(fetch(name), name, "lists no config.json")
    assert hub.fetched == []
    hub.files["config.json"] = config
    del hub.files["preprocessor_config.json"]
    assert fetch(name).returncode == 0  # its family's, which is told


@pytest.mark.slow
def test_a_nested_processor_config_is_fetched(hub, fetch):
    old = json.loads(hub.files.pop("preprocessor_config.json"))
    hub.files["processor_config.json"] = json.dumps({"image_processor": old}).encode()
    assert fetch(HUBS["hugging_face"]).returncode == 0
    assert "processor_config.json" in hub.fetched


@pytest.mark.slow
def test_a_timm_model_has_no_preprocessor_file(hub, fetch, tmp_path):
    write_timm_folder(tmp_path / "timm")
    hub.files.clear()
    for path in (tmp_path / "timm").iterdir():
        hub.files[path.name] = path.read_bytes()
    assert fetch(HUBS["hugging_face"]).returncode == 0
    assert sorted(hub.fetched) == ["config.json", "model.safetensors"]


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
    both = ["open_clip_config.json", "open_clip_model.safetensors"]
    assert chosen_files([*both, "vocab.h5", "open_clip_pytorch_model.bin"]) == both
    assert chosen_files([*both, *shards]) == chosen_files(shards)
    only_bins = [name for name in shards if "safetensors" not in name]
    assert chosen_files(only_bins) == [*configs, "pytorch_model.bin.index.json", *bins]
    with pytest.raises(CheckpointError, match=r"no model.safetensors and no pytorch_model.bin"):
        chosen_files([*configs, "flax_model.msgpack", "onnx/model.safetensors"])


def test_a_tokenizer_is_chosen_with_the_weights():
    files = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    assert chosen_files([*files, "README.md", "vocab.h5"]) == files
    files = ["open_clip_config.json", "tokenizer.json", "open_clip_model.safetensors"]
    assert chosen_files(files) == files


def test_the_innermost_cause_that_is_not_in_chinese_is_told():
    """ModelScope's client has causes of its own that come in no other language."""
    try:
        raise ConnectionError("connection refused")
    except ConnectionError as e:
        wrapped = RuntimeError("下载 a 在 3 次重试后失败")
        wrapped.__cause__ = e
    assert "(RuntimeError: connection refused)" in reason_in_words(wrapped, MODELSCOPE)
    assert "下载总时限已耗尽" in reason_in_words(RuntimeError("下载总时限已耗尽"), MODELSCOPE)
