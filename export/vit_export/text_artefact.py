"""Writes the text tower of a two-tower model as a file of its own, its tokenizer inside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from vit_engine.artefact.contract import Precision
from vit_engine.artefact.integrity import metadata_entry
from vit_engine.artefact.text_contract import TOKENIZER, TextContract, TextParity
from vit_engine.errors import CheckpointError
from vit_engine.machine.atomic import replacing
from vit_engine.outputs.embeddings import Embeddings, cosines, unit
from vit_engine.outputs.parity import BOUNDS, check_parity
from vit_engine.text_embedder import TextEmbedder, ids_from_texts, tokenizer_from_json
from vit_export.artefact import identity_of, write, write_metadata
from vit_export.checkpoints.canonical import canonical
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.eager import TEXT_CURE, eager_text_model, eager_versions, told
from vit_export.files.weight_files import tensors_from_files, weight_files
from vit_export.graph.text_transformer import model_from_text_tower
from vit_export.packages.texts.text_model import TextModel
from vit_export.verify import CURE

TEXTS = (
    *("a photo of a cat", "A Photo of TWO Dogs!", "This is a photo of bricks.", "x", "", " a  b "),
    *("what's that?! (3.5 m)", "naïve café: 東京, кот", "red\tstar\non white", "🐈 & <b>"),
    "a long text of many words, " * 30,
)
"""What both tokenizers and both towers are compared on."""


def export_text(
    checkpoint: Checkpoint, path: Path, *, precision: Precision, verified: bool
) -> TextContract:
    """Write the text tower that belongs to a checkpoint of vectors; return its contract.

    Its tokens are always compared with the library's, and if it is to be `verified` its vectors
    with those of eager PyTorch. CheckpointError for a model without such a tower or a tokenizer
    that is not all in one file, ParityError where the two differ.
    """
    vectors = checkpoint.output
    assert isinstance(vectors, Embeddings)
    model = eager_text_model(checkpoint)
    config = model.config
    contract = TextContract(
        identity=identity_of(checkpoint, precision),
        length=config.length,
        pads_to_length=config.pads_to_length,
        pad_id=model.pad_id,
        size=vectors.size,
        space=vectors.space,
        parity=None,
    )
    with told(checkpoint, "tokenise texts for", cure=TEXT_CURE):
        document = model.tokenizer_json()
        texts = _compared(model, document, contract)
    stored = tensors_from_files(
        weight_files(checkpoint.folder, checkpoint.package.weights), model.family.reads
    )
    tensors = canonical(stored, model.family, config, vectors.size)
    graph = model_from_text_tower(tensors, config, precision=precision)
    with replacing(path) as temporary:
        write(graph, precision, temporary)
        with temporary.open("ab") as file:
            file.write(metadata_entry(TOKENIZER, document))
        bare = temporary.stat().st_size
        contract = write_metadata(temporary, contract, bare)
        onnx.checker.check_model(temporary.read_bytes(), full_check=True)
        if not verified:
            return contract
        with told(checkpoint, "encode texts for", cure=TEXT_CURE):
            expected = unit(model.vectors(texts)).astype(np.float32)
        found = TextEmbedder.load(temporary, optimize_graph=False).embed(texts)
        parity = TextParity(
            reference=eager_versions(model.package),
            texts=len(texts),
            min_cosine=float(cosines(found, expected).min()),
            max_abs_diff=float(np.abs(found - expected).max()),
        )
        check_parity(
            found,
            expected,
            BOUNDS[precision],
            output=vectors,
            name=f"the {precision} text tower",
            reference="eager PyTorch",
            fix=CURE,
        )
        return write_metadata(temporary, replace(contract, parity=parity), bare)


def _compared(model: TextModel, document: str, contract: TextContract) -> list[str]:
    """Return the texts that the model takes; CheckpointError where their tokens are others."""
    tokenizer = tokenizer_from_json(document, contract)
    texts = [text for text in TEXTS if model.fits(text)]
    expected = model.ids(texts)
    found = ids_from_texts(tokenizer, contract, texts)
    if not np.array_equal(found, expected):
        raise CheckpointError(
            f"its tokenizer.json does not give the tokens of the library's own "
            f"{type(model.tokenizer).__name__}, so it cannot stand for it; --labels works with it"
        )
    return texts
