"""Holds an artefact against eager PyTorch, image by image, through the runtime's own engine."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import EmbeddingParity, Parity, Precision
from vit_engine.artefact.metadata import read_contract
from vit_engine.engine import Engine
from vit_engine.errors import ParityError, ProviderError, UsageError
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_engine.outputs.comparison import Comparison
from vit_engine.outputs.embeddings import Embeddings, cosines, recall
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.parity import Bounds, check_parity
from vit_engine.outputs.scores import Scores
from vit_engine.providers.tensors import normalized
from vit_engine.sources.sample import Sample
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.eager import eager_outputs, eager_pixels, eager_versions
from vit_export.files.utf8_path import in_utf8
from vit_export.quantization.agreement import agreement_of
from vit_export.quantization.calibration import view_count, views_of
from vit_export.samples import draw
from vit_export.samples.images import drawn_samples, drawn_shapes, sample_from_item

INT8_PROVIDERS = ("cpu", "openvino")
"""Who runs int8 artefacts, each with kernels of its own."""

CURE = "export with --fp32, or look at the model with --no-verify"

MOST_LEVELS = 0.05
"""By how much a pixel may differ from the reference's, in 255ths: rounding in float32 alone."""


MIN_RECALL: dict[Precision, float] = {"fp32": 0.99, "fp16": 0.9, "int8": 0.8}
"""The least share of an image's nearest others that must stay so. Measured on DeiT-Tiny with 100
photographs: 1.0 in fp32, 0.999 in fp16, 0.961 in int8."""


def verification_images(items: Iterable[Sample] | None) -> Iterator[Image.Image]:
    """Yield a user's images, then drawn ones; UsageError where one cannot be read."""
    for item in items or ():
        yield sample_from_item(item, "--verify-images")
    yield from drawn_samples(len(draw.LABELS))


def parity_of(
    path: Path,
    checkpoint: Checkpoint,
    images: Iterable[Image.Image],
    bounds: Bounds,
    *,
    report: Callable[[str], None],
    detail: Callable[[str], None],
) -> Parity | EmbeddingParity:
    """Measure the artefact at `path` against eager fp32 PyTorch; ParityError beyond its bounds.

    The reference preprocesses with transformers and the artefact with the runtime, so that a
    difference of either shows; what they make of drawn shapes is compared first, which shows one
    whatever the images. An FP16 artefact rounds between operators, as on a GPU. An int8 one is
    judged by its margins, on several views of each image where there are few, on the CPU and on
    OpenVINO where that is installed; `report` is told the least that is kept, `detail` the rest.
    """
    check_preprocessing(checkpoint)
    rgb = [rgb_from_image(image) for image in images]
    precision = read_contract(path).identity.precision
    views = view_count(len(rgb)) if precision == "int8" else 1
    rgb = [view for image in rgb for view in views_of(image, views)]
    expected = eager_outputs(checkpoint, rgb)
    parity, output, kept = None, checkpoint.output, []
    for provider in INT8_PROVIDERS if precision == "int8" else ("cpu",):
        try:
            found = _outputs_on(provider, path, rgb)
        except (ProviderError, UsageError) as e:
            if provider == "cpu":
                raise
            detail(f"not compared on {provider}: {e}")
            continue
        name = f"the {precision} graph" + (f" on {provider}" if precision == "int8" else "")
        check_parity(
            found,
            expected,
            replace(bounds, min_agreement=0.0) if precision == "int8" else bounds,
            output=output,
            name=name,
            reference="eager PyTorch",
            fix=CURE,
        )
        if precision == "int8" and isinstance(output, Scores) and output.function != "none":
            agreement = agreement_of(found, expected, output, views)
            agreement.check(bounds.min_agreement, name=name, fix=CURE)
            detail(f"on {provider}: {agreement}")
            kept.append(agreement)
        measured = parity_from_outputs(
            found[::views], expected[::views], output, package=checkpoint.package.name
        )
        if isinstance(measured, EmbeddingParity):
            check_neighbours(measured, precision, name=name)
        parity = parity or measured
    if kept:
        least = min(kept, key=lambda agreement: agreement.expected)
        report(least.in_short(bounds.min_agreement))
    assert parity is not None  # the cpu provider comes first
    return parity


def check_neighbours(parity: EmbeddingParity, precision: Precision, *, name: str) -> None:
    """Raise ParityError where too few of an image's nearest others stay the nearest."""
    if parity.recall < MIN_RECALL[precision]:
        raise ParityError(
            f"{name} keeps {parity.recall:.1%} of an image's nearest others (allowed "
            f"{MIN_RECALL[precision]:.0%}), on {parity.images} images; {CURE}"
        )


def _outputs_on(provider: str, path: Path, rgb: list[Image.Image]) -> NDArray[np.float32]:
    with (
        in_utf8(path) as readable,
        Engine.open(
            readable, provider=provider, optimize_graph=False, cache_compiled=False
        ) as engine,
    ):
        pixels = [pixels_from_image(i, engine.contract.preprocessing) for i in rgb]
        return engine.run(np.stack(pixels))


def check_preprocessing(checkpoint: Checkpoint) -> None:
    """Raise ParityError unless the runtime gives the reference's pixels for drawn shapes."""
    shapes, resolved = list(drawn_shapes()), checkpoint.preprocessing
    levels = 255 * np.array(resolved.std)[:, None, None]
    for image, expected in zip(shapes, eager_pixels(checkpoint, shapes), strict=True):
        found = normalized(pixels_from_image(image, resolved)[None], resolved)[0]
        alike = found.shape == expected.shape
        worst = float(np.abs((found - expected) * levels).max()) if alike else np.inf
        if not worst <= MOST_LEVELS:
            how = f"by {worst:.3g} of 255" if alike else f"in shape, {expected.shape}"
            raise ParityError(
                f"the preprocessing that was read from the checkpoint differs from the reference's "
                f"{how}, on a {image.mode} image of {image.width}x{image.height}; please report "
                "it, or export with --no-verify"
            )


def parity_from_outputs(
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    output: OutputKind,
    *,
    package: str = "transformers",
) -> Parity | EmbeddingParity:
    """Compare two sets of outputs (N, ...), one image at least, of a kind.

    The expected ones are from that package's model.
    """
    if isinstance(output, Embeddings):
        near = cosines(found, expected)
        return EmbeddingParity(
            reference=eager_versions(package),
            images=len(found),
            min_cosine=float(near.min()),
            mean_cosine=float(near.mean()),
            recall=recall(found, expected),
            max_abs_diff=float(np.abs(found - expected).max()),
        )
    compared = Comparison(output)
    compared.add(found, expected)
    return Parity(
        reference=eager_versions(package),
        images=compared.images,
        agreement=compared.agreement,
        max_abs_diff=compared.max_abs_diff,
        mean_abs_diff=compared.mean_abs_diff,
        logit_range=compared.range,
    )
