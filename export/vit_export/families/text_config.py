"""What a text tower is, as data: the other half of CLIP and its descendants."""

from dataclasses import dataclass
from typing import Literal

from vit_engine.errors import CheckpointError
from vit_export.families.model_config import ModelConfig, Shapes


@dataclass(frozen=True)
class TextConfig(ModelConfig):
    """What `ModelConfig` says of blocks, norm and head; nothing that it says of images counts.

    Beside their names the tensors are `words`, the embedding of each token of the vocabulary, and
    `positions`.
    """

    vocabulary: int = 0
    rows: int = 0
    """Of the position table."""
    length: int = 0
    """Most tokens of a text."""
    pads_to_length: bool = False
    """Whether each text is padded, or cut off, to `length`; else to the longest beside it."""
    pooled_at: int | Literal["highest", "last"] = "last"
    """Which token's vector is the text's: the first of this id, that of the highest id, or the
    one at the last position."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < self.length:
            raise CheckpointError(
                f"text_config has max_position_embeddings {self.rows}, and its texts are padded to "
                f"{self.length} tokens"
            )

    @property
    def tokens(self) -> int:
        """Most tokens of a text."""
        return self.length

    @property
    def num_output_tokens(self) -> int:
        """All of them: where the one that is read stands depends on the text."""
        return self.length

    def shapes(self, outputs: int) -> Shapes:
        """Yield the canonical name and shape of every tensor of a tower of so many outputs."""
        yield "words", (self.vocabulary, self.hidden_size)
        yield "positions", (self.rows, self.hidden_size)
        yield from (pair for pair in super().shapes(outputs) if not pair[0].startswith("patch."))
