"""The kinds of output, a closed set: all that the rest of the house knows of one it asks of it.

A kind has `shape`, what one image has in the model's output, and `element`, what one number of it
is called; `columns`, `results` and `failed`, which make rows; `selection`, which checks what a user
asks of results; `cells`, which a table shows; `agreements`, of two models' outputs, and
`mismatch`, which says why there can be none. Its results have `path`, `error` and `error_code`,
`to_dict`, the row, `to_json`, what answers for one image alone, and `packed`, the row in short.
"""

from vit_engine.artefact.contract import EmbeddingOutput, Output
from vit_engine.outputs.embeddings import Embedding, Embeddings
from vit_engine.outputs.prediction import Prediction
from vit_engine.outputs.scores import Scores

OutputKind = Scores | Embeddings

Result = Prediction | Embedding
"""What became of one image."""


def output_from_contract(output: Output | EmbeddingOutput) -> OutputKind:
    """Return the kind of output that a contract tells of."""
    if isinstance(output, EmbeddingOutput):
        return Embeddings(output.size, output.pooling, output.normalized, output.space)
    return Scores(output.labels, output.score, output.temperature)
