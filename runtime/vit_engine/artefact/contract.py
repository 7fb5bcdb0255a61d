"""What an artefact says of itself: one JSON document in its metadata, written and read here."""

import json
import sys
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from vit_engine.errors import ArtefactError

KEY = "vit_engine"
SCHEMA = 2
MAX_FLOAT = sys.float_info.max
MAX_COLOUR = 255

Precision = Literal["fp16", "fp32", "int8"]
"""What weights are rounded to, and the arithmetic that is meant."""

Dtype = Literal["uint8", "float32"]
Layout = Literal["NHWC", "NCHW"]

Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
FILTERS: tuple[Filter, ...] = get_args(Filter)
"""Resampling filters by name; the index is Pillow's `Image.Resampling` value."""

ResizeRule = Literal["squash", "shortest_edge", "edges", "within", "within_rounded"]
"""What `Preprocessing.resize`, two numbers of pixels, means. All but squash keep the aspect ratio.

    squash          the height and the width
    shortest_edge   the shortest edge, twice; the other edge is rounded down
    edges           the shortest edge, unless the longest would pass the second number: then that
    within          a height and a width to fill without passing them, rounded down
    within_rounded  the same, rounded to the nearest, halves to even
"""

Anchor = Literal["centre", "centre_half_even", "top_left"]
"""Where the crop lies on the resized image: at its centre, where half a pixel is rounded down, as
transformers does it, or to even, as torchvision does; or at its top left corner."""

ScoreKind = Literal["softmax", "sigmoid", "none"]
"""What turns a row of logits into scores: softmax over the labels, for one label an image; sigmoid
of each, for labels that do not exclude each other; none, for a regression's values."""


@dataclass(frozen=True)
class Identity:
    """Where the artefact comes from; `weights_sha256` is that of the checkpoint's own files."""

    model: str
    revision: str | None
    weights_sha256: str
    precision: Precision
    exporter: str  # "vit-engine 0.2.0"


@dataclass(frozen=True)
class Input:
    """The graph's one input. uint8 NHWC holds raw RGB; float32 NCHW is normalised by the caller."""

    name: str
    dtype: Dtype
    layout: Layout
    height: int
    width: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image in the graph's layout."""
        height, width = self.height, self.width
        return (height, width, 3) if self.layout == "NHWC" else (3, height, width)


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the input, with every choice already made.

    Resize on uint8, then crop to (height, width), whose part beyond the image has the RGB colour
    `fill`, then `(pixel / 255 - mean) / std` per channel.
    """

    resize: tuple[int, int]
    rule: ResizeRule
    filter: Filter
    crop: tuple[int, int] | None
    anchor: Anchor
    fill: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """The height and width of the result."""
        return self.crop or self.resize


@dataclass(frozen=True)
class Output:
    """The graph's one output, float32 logits `[batch, len(labels)]`, and how they are scored.

    Logits are divided by the `temperature` before softmax or sigmoid: 1 unless vit-eval found it.
    """

    name: str
    labels: tuple[str, ...]
    score: ScoreKind
    temperature: float = 1.0


Pooling = Literal["cls", "mean", "cls+mean", "pooler", "map"]
"""What an image's vector is made of: the CLS token after the last norm; the mean of the patches;
both, one after the other; CLS through the library's dense layer and tanh; or an attention-pooling
head (SigLIP's)."""


@dataclass(frozen=True)
class EmbeddingOutput:
    """The graph's one output, float32 `[batch, size]`: a vector for each image.

    `normalized` vectors have length 1. Two vectors may be compared where their `space` is the same:
    the SHA-256 of the weights, the pooling, the projection and the preprocessing that made them.
    """

    name: str
    size: int
    pooling: Pooling
    normalized: bool
    space: str


@dataclass(frozen=True)
class EmbeddingParity:
    """An artefact's vectors beside its reference's, measured at export on `images` images.

    `recall` is the share of each image's nearest others that are the reference's too: of ten, or
    of half the others where they are fewer than 20.
    """

    reference: str
    images: int
    min_cosine: float
    mean_cosine: float
    recall: float
    max_abs_diff: float  # of an element


@dataclass(frozen=True)
class ZeroShot:
    """What the labels of a zero-shot classifier were made of, once, at export.

    The vectors of the label in each of `templates`, whose "{}" is the label's place, were averaged.
    `space` is that of the image vectors that are compared with them.
    """

    templates: tuple[str, ...]
    space: str
    tokenizer: str  # how texts became tokens, in words
    logit_scale: float
    logit_bias: float


@dataclass(frozen=True)
class Parity:
    """The artefact beside its reference, measured at export on `images` images."""

    reference: str  # "transformers 5.23.0, torch 2.13.0, eager fp32, CPU"
    images: int
    agreement: float | None  # share of images, 0 to 1, as `parity.agreements`; None for values
    max_abs_diff: float  # largest |difference| of a logit
    mean_abs_diff: float
    logit_range: float  # max - min of the reference logits


@dataclass(frozen=True)
class Calibration:
    """The images that int8 weights were rounded after; `sha256` is over their pixels as fed."""

    images: int
    sha256: str


@dataclass(frozen=True)
class Contract:
    """Everything the runtime needs to know of an artefact.

    `parity` is None if it was never checked, `calibration` if no image had a part in the weights.
    `content_sha256` is that of `integrity.content_sha256`.
    """

    identity: Identity
    input: Input
    preprocessing: Preprocessing
    output: Output | EmbeddingOutput
    parity: Parity | EmbeddingParity | None
    calibration: Calibration | None = None
    zero_shot: ZeroShot | None = None
    content_sha256: str | None = None
    schema: int = SCHEMA

    key: ClassVar[str] = KEY

    def dumps(self) -> str:
        """Return the JSON document that `loads` reads back to an equal contract."""
        document = asdict(self)
        if self.zero_shot is None:  # the digests of older artefacts are of contracts without it
            del document["zero_shot"]
        if document["output"].get("temperature") == 1:
            del document["output"]["temperature"]
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def loads(text: str) -> Contract:
    """Read a contract; `ArtefactError` says what is wrong with it, another schema included."""
    contract: Contract = parsed(Contract, document_from(text, SCHEMA), "contract")
    _check(contract)
    return contract


def document_from(text: str, schema: int) -> Any:
    """Return what a JSON document holds; `ArtefactError` unless it has that schema."""
    try:
        document = json.loads(text)
        json.dumps(document, ensure_ascii=False).encode()  # JSON spells halves of surrogates, too
    except ValueError as e:
        raise ArtefactError(f"the contract is not JSON ({e}); export the model again") from e
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        raise ArtefactError(
            f"the contract has schema {found!r}, this vit-engine reads schema {schema}; "
            "export the model again, or install the vit-engine that wrote it"
        )
    return document


def _check(contract: Contract) -> None:
    input_spec, pre, output = contract.input, contract.preprocessing, contract.output
    legal = {("uint8", "NHWC"), ("float32", "NCHW")}
    shape, size = pre.shape, (input_spec.height, input_spec.width)
    problems = {
        f"input is {input_spec.dtype} {input_spec.layout}, not uint8 NHWC or float32 NCHW": (
            (input_spec.dtype, input_spec.layout) not in legal
        ),
        f"resize by {pre.rule} without a crop": pre.rule != "squash" and pre.crop is None,
        f"preprocessing gives {shape}, the input takes {size}": shape != size,
        "sizes must be positive": min(*size, *pre.resize) < 1,
        "fill is no colour": not all(0 <= value <= MAX_COLOUR for value in pre.fill),
        "std has a zero": 0 in pre.std,
    }
    if isinstance(output, EmbeddingOutput):
        problems["a vector has no numbers"] = output.size < 1
    else:
        alone = output.score == "softmax" and len(output.labels) == 1
        problems |= {"no labels": not output.labels, "softmax over one label is always 1": alone}
        problems["the temperature is not above 0"] = output.temperature <= 0
    for problem, present in problems.items():
        if present:
            raise ArtefactError(f"the contract contradicts itself: {problem}")


def parsed(expected: Any, value: Any, where: str) -> Any:
    """Return `value` as the annotated type, or raise `ArtefactError` that names the field."""
    if is_dataclass(expected) and isinstance(expected, type):
        hints = get_type_hints(expected)
        if not isinstance(value, dict) or not _fits(expected, value):
            found = sorted(value) if isinstance(value, dict) else type(value).__name__
            names = sorted(f.name for f in fields(expected))
            raise ArtefactError(f"the contract's {where} has {found}, expected {names}")
        return expected(**{n: parsed(hints[n], v, f"{where}.{n}") for n, v in value.items()})
    if isinstance(expected, UnionType):
        if value is None and NoneType in get_args(expected):
            return None
        kinds = [a for a in get_args(expected) if a is not NoneType]
        fitting = [a for a in kinds[1:] if isinstance(value, dict) and _fits(a, value)]
        return parsed((fitting or kinds)[0], value, where)
    if get_origin(expected) is Literal:
        if type(value) is str and value in get_args(expected):
            return value
        message = ", ".join(get_args(expected))
        raise ArtefactError(f"the contract's {where} is {value!r:.80}, expected one of {message}")
    if get_origin(expected) is tuple and isinstance(value, list):
        args = get_args(expected)
        if args[-1] is ...:
            args = (args[0],) * len(value)
        if len(args) == len(value):
            return tuple(parsed(a, v, where) for a, v in zip(args, value, strict=True))
    elif expected is float and type(value) in (int, float):
        if abs(value) <= MAX_FLOAT:  # false for NaN too
            return float(value)
    elif type(value) is expected:
        return value
    raise ArtefactError(f"the contract's {where} is {value!r:.80}, expected {expected}")


def _fits(expected: Any, value: dict[str, Any]) -> bool:
    """Tell whether a table has a dataclass's fields; one with a default may be absent."""
    # A field with a default is younger than some artefacts.
    required = {f.name for f in fields(expected) if f.default is MISSING}
    return required <= set(value) <= {f.name for f in fields(expected)}
