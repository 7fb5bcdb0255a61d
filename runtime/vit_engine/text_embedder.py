"""Texts in, vectors out, for the search among vectors of images: the Python API of text towers."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.integrity import check_integrity
from vit_engine.artefact.metadata import read_text_contract
from vit_engine.artefact.rewrites.cpu_graph import graph_for_cpu
from vit_engine.artefact.text_contract import INPUT, TextContract
from vit_engine.errors import ArtefactError, MachineError, UsageError, one_line, printable
from vit_engine.machine.installation import pip_install
from vit_engine.providers.availability import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime
    import tokenizers

BATCH = 64
"""Texts that are run at once."""


class TextEmbedder:
    """An open text tower, on the CPU. A context manager; `embed` is thread-safe."""

    def __init__(self, path: Path, *, optimize_graph: bool) -> None:
        self.contract, tokenizer = read_text_contract(path)
        check_integrity(path, self.contract)
        self._tokenizer = tokenizer_from_json(tokenizer, self.contract)
        ort = import_onnxruntime()
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # errors are raised as well
        settings.add_session_config_entry(
            "session.model_external_initializers_file_folder_path",
            os.fsencode(path.resolve().parent),
        )
        source = graph_for_cpu(path) if optimize_graph else str(path)
        try:
            self._session: onnxruntime.InferenceSession | None = ort.InferenceSession(
                source, settings, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # ONNX Runtime's have no common base
            raise ArtefactError(
                f"{printable(str(path))}: ONNX Runtime cannot open it: {one_line(e)}"
            ) from e

    @classmethod
    def load(cls, path: str | Path, *, optimize_graph: bool = True) -> Self:
        """Open a file of `vit-export --text`, its graph adapted to this processor by default.

        Raises ArtefactError for a file that is none, MachineError where the library of its
        tokenizer, or ONNX Runtime, is not there.
        """
        return cls(Path(path), optimize_graph=optimize_graph)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the session; later texts are refused."""
        self._session = None

    @property
    def space(self) -> str:
        """What the space of image vectors must be for these to be compared with them."""
        return self.contract.space

    def embed(self, texts: Iterable[str] | str) -> NDArray[np.float32]:
        """Return the vectors (N, size) of texts, in order, each of length 1.

        One text alone counts as a list of one. Raises TypeError for what is no text, UsageError for
        one that is too long for the model or not UTF-8, and once the embedder is closed.
        """
        session = self._session
        if session is None:
            raise UsageError("the text embedder is closed: open the model again")
        given = [texts] if isinstance(texts, str) else list(texts)
        for text in given:
            if not isinstance(text, str):
                raise TypeError(f"{text!r:.80} is no text")
            if text.encode(errors="replace").decode() != text:
                raise UsageError(f"{text!r:.80} is not UTF-8; give a text of whole characters")
        chunks = [given[i : i + BATCH] for i in range(0, len(given), BATCH)]
        ids = [ids_from_texts(self._tokenizer, self.contract, chunk) for chunk in chunks]
        parts = [session.run(None, {INPUT: chunk})[0] for chunk in ids]
        return np.concatenate([np.empty((0, self.contract.size), np.float32), *parts])


def tokenizer_from_json(document: str, contract: TextContract) -> "tokenizers.Tokenizer":
    """Return the tokenizer that pads as the contract says; MachineError without its library."""
    try:
        import tokenizers
    except ModuleNotFoundError as e:
        raise MachineError(
            f"texts need the tokenizers library, which is not installed: {pip_install('text')}"
        ) from e
    try:
        tokenizer = tokenizers.Tokenizer.from_str(document)
    except Exception as e:  # the library raises this class itself
        raise ArtefactError(
            f"tokenizers {tokenizers.__version__} cannot read the file's tokenizer: {one_line(e)}"
        ) from e
    length = contract.length if contract.pads_to_length else None
    tokenizer.enable_padding(direction="right", pad_id=contract.pad_id, length=length)
    if length is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(length)
    return tokenizer


def ids_from_texts(
    tokenizer: "tokenizers.Tokenizer", contract: TextContract, texts: Sequence[str]
) -> NDArray[np.int64]:
    """Return the tokens of texts (N, tokens); UsageError for one that has too many."""
    found = tokenizer.encode_batch(texts)
    for text, encoding in zip(texts, found, strict=True):
        if (count := sum(encoding.attention_mask)) > contract.length:
            raise UsageError(
                f"the text {text!r:.80} has {count} tokens, the model takes {contract.length} at "
                "most; shorten it"
            )
    return np.array([encoding.ids for encoding in found], np.int64)
