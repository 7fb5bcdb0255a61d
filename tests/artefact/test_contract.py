"""The contract: what is written is what is read, and nothing else is taken for one."""

import json
import random
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
        resize=(256, 256),
        rule="shortest_edge",
        filter="bilinear",
        crop=(224, 224),
        anchor="centre",
        fill=(0, 0, 0),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    output=Output("logits", ("cat", "dog"), "softmax"),
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
        output=Output("logits", labels, "sigmoid"),
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
        (edited("schema", 1), "schema 1, this vit-engine reads schema 2; export the model again"),
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
        (edited("preprocessing.resize", None), "preprocessing.resize is None"),
        (edited("preprocessing.resize", [0, 8]), "sizes must be positive"),
        (edited("preprocessing.crop", [8, 8]), "the input takes"),
        (edited("preprocessing.crop", None), "resize by shortest_edge without a crop"),
        (edited("preprocessing.rule", "stretch"), "rule is .stretch., expected one of squash"),
        (edited("preprocessing.anchor", "center"), "anchor is .center., expected one of centre"),
        (edited("preprocessing.fill", [0, 0, 256]), "fill is no colour"),
        (edited("output.score", "logistic"), "score is .logistic., expected one of softmax"),
        (edited("output.labels", ["cat"]), "softmax over one label is always 1"),
        (edited("output.labels", ["cat", "\ud83d"]), "surrogates not allowed"),
        (edited("parity.extra", 1), "parity has"),
        (edited("identity", "me"), "identity has str"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        contract.loads(text)


JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e400, float("nan"), 2**80, "", "x", "\ud800", "\0"),
    *([], {}, [None], [0, 0], [1.0, 2.0, 3.0], {"a": 1}, ["a"] * 3, [[1]], 10**400),
)


def mutated(document: Any, rng: random.Random) -> Any:
    """Return a document with one value replaced, lost, added or moved, at any depth."""
    if isinstance(document, dict) and document and rng.random() < 0.85:
        name = rng.choice(list(document))
        kind = rng.random()
        rest = {k: v for k, v in document.items() if k != name}
        if kind < 0.1:
            return rest
        if kind < 0.2:
            return document | {rng.choice(("extra", "", "schema", name.upper())): rng.choice(JUNK)}
        return document | {name: mutated(document[name], rng)}
    if isinstance(document, list) and document and rng.random() < 0.6:
        at = rng.randrange(len(document))
        return [*document[:at], mutated(document[at], rng), *document[at + rng.randrange(2) :]]
    return rng.choice(JUNK)


def fuzz(count: int) -> int:
    """Read mutated contracts; return how many were refused. Whatever is taken is written alike."""
    rng, refused = random.Random(0), 0
    whole = json.loads(EXAMPLE.dumps())
    for _ in range(count):
        document = whole
        for _ in range(rng.randrange(1, 4)):
            document = mutated(document, rng)
        text = json.dumps(document)
        if rng.random() < 0.2:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(("", "\0", "{", '"', "9")) + text[at + 1 :]
        try:
            found = contract.loads(text)
        except ArtefactError as e:
            assert "\n" not in str(e)
            refused += 1
        else:
            assert contract.loads(found.dumps()) == found
    return refused


def test_mutated_contracts_are_refused_in_a_line_or_read_whole() -> None:
    assert fuzz(500) > 300


@pytest.mark.slow
def test_many_mutated_contracts() -> None:
    assert fuzz(20_000) > 12_000
