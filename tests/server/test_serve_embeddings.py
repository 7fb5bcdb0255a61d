"""vit-serve with a model that gives vectors, and with one of zero-shot labels."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient

from support.embedding_model import SIZE, SPACE, write_embedding_model
from support.running_server import CIRCLE, STAR, Answer, Server, running
from vit_engine import Embedder
from vit_engine.artefact.contract import ZeroShot
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_export.artefact import rewrite_metadata, write_metadata

TEXT = base64.b64encode(STAR).decode()
TEMPLATE = "This is a photo of {}."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("models")
    write_embedding_model(path / "vectors.onnx")
    labels = path / "labels.onnx"
    labels.write_bytes(path_from_name("demo").read_bytes())
    zero_shot = ZeroShot((TEMPLATE,), SPACE, "a tokenizer", 1.0, 0.0)
    size = labels.stat().st_size
    write_metadata(labels, replace(read_contract(labels), zero_shot=zero_shot), size)
    rewrite_metadata(labels)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running(folder / "vectors.onnx", folder / "labels.onnx") as started:
        yield started


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    with Embedder.load(folder / "vectors.onnx") as embedder:
        return embedder.embed([STAR, CIRCLE])


def posted(server: Server, path: str, **document: Any) -> Answer:
    return server.ask(path, json.dumps(document).encode())


def test_a_vector_is_the_answer(server: Server, expected: Any) -> None:
    """With the space that it lies in."""
    answer = server.ask("/", STAR)
    assert answer.headers["embedding-space"] == SPACE
    np.testing.assert_allclose(answer.json, expected[0], atol=1e-6)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_openai_shaped_vectors(server: Server, expected: Any, form: str) -> None:
    """Images as data URIs or in base64, several in order."""
    circle = "data:image/jpeg;base64," + base64.b64encode(CIRCLE).decode()
    answer = posted(server, "/v1/embeddings", input=[TEXT, circle], encoding_format=form, user="x")
    assert answer.status == 200, answer.body
    assert (answer.json["model"], answer.json["space"]) == ("vectors", SPACE)
    for index, item in enumerate(answer.json["data"]):
        found = item["embedding"]
        if form == "base64":
            found = np.frombuffer(base64.b64decode(found), "<f4")
        assert (item["object"], item["index"]) == ("embedding", index)
        np.testing.assert_allclose(found, expected[index], atol=1e-6)


@pytest.mark.parametrize(
    ("document", "status", "words"),
    [
        ({"input": "a dog"}, 400, "--text FILE"),
        ({"input": []}, 400, "0 items"),
        ({"input": TEXT, "dimensions": SIZE + 1}, 400, f"gives {SIZE} dimensions"),
        ({"input": TEXT, "model": "labels"}, 400, "gives labels, not vectors"),
        ({"input": TEXT, "model": "gpt"}, 404, "no model 'gpt'"),
        ({"input": "data:image/png;base64,!!"}, 400, "not whole base64"),
        ({"input": "data:image/png,abc"}, 400, "must be in base64"),
        ({"input": [TEXT, TEXT[:400]]}, 422, "image 1 of input"),
        ({"input": 3}, 400, "Expected"),
    ],
)
def test_what_gets_no_vector(server: Server, document: Any, status: int, words: str) -> None:
    answer = posted(server, "/v1/embeddings", **document)
    assert (answer.status, words in answer.json["error"]) == (status, True), answer.body


def test_the_protocol_has_the_vectors(server: Server, expected: Any) -> None:
    pixels = {"name": "pixels", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": [127] * 768}
    answer = posted(server, "/v2/models/vectors/infer", inputs=[pixels])
    (output,) = answer.json["outputs"]
    assert (output["name"], output["shape"]) == ("embedding", [1, SIZE])


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_hugging_faces_zero_shot_client(server: Server, folder: Path, template: str | None) -> None:
    """All labels, in whichever order they are asked for, best first."""
    labels = list(read_contract(folder / "labels.onnx").output.labels)  # type: ignore[union-attr]
    client = InferenceClient(f"{server.url}/?model=labels", token="none")
    found = client.zero_shot_image_classification(
        STAR, candidate_labels=labels[::-1], hypothesis_template=template
    )
    assert found[0].label == "star"
    assert sorted(f.label for f in found) == sorted(labels)


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        ("labels", {"candidate_labels": ["cat", "dog"]}, "made at export"),
        ("labels", {"hypothesis_template": "a {}"}, "not into hypothesis_template"),
        ("vectors", {"top_k": 3}, "a vector, not labels"),
    ],
)
def test_labels_that_are_not_baked_in(
    server: Server, model: str, parameters: Any, words: str
) -> None:
    answer = posted(server, f"/?model={model}", inputs=TEXT, parameters=parameters)
    assert (answer.status, words in answer.json["error"]) == (400, True), answer.body
