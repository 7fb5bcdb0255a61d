"""The contract: what is written is what is read, and nothing else is taken for one."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_engine.artefact import contract
from vit_engine.artefact.contract import Contract, Identity, Input, Output, Parity, Preprocessing
from vit_engine.errors import ArtefactError

EXAMPLE = Contract(
    identity=Identity("owner/vit", None, "ab" * 32, "fp16", "vit-engine 0.1.0"),
    input=Input("pixels", "uint8", "NHWC", 224, 224),
    preprocessing=Preprocessing(
        (224, 224), None, "bilinear", None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    ),
    output=Output("logits", ("cat", "dog")),
    parity=Parity("eager", 19, 1.0, 0.001, 0.0001, 12.5),
)


@settings(deadline=None)
@given(
    labels=st.lists(st.text(), min_size=1).map(tuple),
    revision=st.none() | st.text(),
    verified=st.booleans(),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_what_is_written_is_what_is_read(
    labels: tuple[str, ...], revision: str | None, verified: bool, mean: tuple[float, ...]
) -> None:
    written = replace(
        EXAMPLE,
        identity=replace(EXAMPLE.identity, revision=revision),
        output=Output("logits", labels),
        preprocessing=replace(EXAMPLE.preprocessing, mean=mean),
        parity=EXAMPLE.parity if verified else None,
    )
    assert contract.loads(written.dumps()) == written


def edited(path: str, value: Any) -> str:
    document = json.loads(EXAMPLE.dumps())
    *parents, last = path.split(".")
    target = document
    for name in parents:
        target = target[name]
    target[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "schema None"),
        (edited("schema", 2), "schema 2, this vit-engine reads schema 1"),
        (edited("output.labels", []), "no labels"),
        (edited("output.labels", [1]), r"output.labels is 1, expected"),
        (edited("input.height", 0), "sizes must be positive|preprocessing gives"),
        (edited("input.height", "224"), "input.height is '224'"),
        (edited("input.height", True), "input.height is True"),
        (edited("input.dtype", "float64"), "dtype is .float64., expected one of uint8, float32"),
        (edited("input.layout", "NCHW"), "uint8 NCHW"),
        (edited("preprocessing.filter", "sinc"), "filter is .sinc., expected one of"),
        (edited("preprocessing.std", [1, 0, 1]), "std has a zero"),
        (edited("preprocessing.mean", [0.5]), "preprocessing.mean is"),
        (edited("preprocessing.resize", None), "exactly one of resize and shortest_edge"),
        (edited("preprocessing.resize", [8, 8]), "the input takes"),
        (edited("parity.extra", 1), "parity has"),
        (edited("identity", "me"), "identity has str"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        contract.loads(text)
