"""The kinds of output, a closed set: all that the rest of the house knows of one it asks of it.

A kind has `shape`, what one image has in the model's output; `columns`, `results` and `failed`,
which make rows; `options`, what a user may ask of results, and `selection`, which checks it;
`cells`, which a table shows; `agreements`, of two models' outputs. Its results have `path`,
`error` and `error_code`, `to_dict`, the row, and `to_json`, what answers for one image alone.
"""

from vit_engine.artefact.contract import EmbeddingOutput, Output
from vit_engine.outputs.embeddings import Embeddings
from vit_engine.outputs.scores import Scores

OutputKind = Scores | Embeddings


def output_from_contract(output: Output | EmbeddingOutput) -> OutputKind:
    """Return the kind of output that a contract tells of."""
    if isinstance(output, EmbeddingOutput):
        return Embeddings(output.size, output.pooling, output.normalized, output.space)
    return Scores(output.labels, output.score)
