"""LitServe, in batches of the engine's size which wait 5 ms to fill; images come as base64."""

import base64
import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from vit_engine import Classifier

BATCH, WAIT = 4, 0.005


class Labels(litserve.LitAPI):  # type: ignore[misc]  # litserve is untyped
    """Decodes in the worker, as LitServe's examples do."""

    def setup(self, device: str) -> None:  # noqa: ARG002  LitServe's own signature
        """Open the model."""
        self.vit = Classifier.load(sys.argv[1], provider="cpu")

    def decode_request(self, request: dict[str, str]) -> NDArray[np.uint8]:
        """Return the model's input."""
        return self.vit.pixels(base64.b64decode(request["inputs"]))

    def predict(self, batch: NDArray[np.uint8]) -> list[list[dict[str, Any]]]:
        """Return the best labels of each image."""
        found = self.vit.predictions(self.vit.engine.run(batch))
        return [[{"label": s.label, "score": s.score} for s in p.topk] for p in found]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return the answers one by one."""
        return output


if __name__ == "__main__":
    labels = Labels(max_batch_size=BATCH, batch_timeout=WAIT, api_path="/")
    server = litserve.LitServer(labels, accelerator="cpu")
    server.run(port=int(sys.argv[3]), log_level="error", generate_client_file=False)
