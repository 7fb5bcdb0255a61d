"""Ray Serve's @serve.batch, in batches of the engine's size which wait 5 ms to fill."""

import asyncio
import sys
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from vit_engine import Classifier

BATCH, WAIT = 4, 0.005


@serve.deployment(max_ongoing_requests=512)
class Labels:
    """One replica that decodes and runs in its own process."""

    def __init__(self, model: str) -> None:
        self.vit = Classifier.load(model, provider="cpu")

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
    async def labels(self, bodies: list[bytes]) -> list[list[dict[str, Any]]]:
        """Return the best labels of each image."""
        found = await asyncio.to_thread(lambda: list(self.vit.classify(bodies)))
        return [[{"label": s.label, "score": s.score} for s in p.topk] for p in found]

    async def __call__(self, request: Request) -> Any:
        """Label one image, or tell that it is there."""
        if request.method == "GET":
            return {"status": "ready"}
        return await self.labels(await request.body())


if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[3])})
    deployment: Any = Labels
    serve.run(deployment.bind(sys.argv[1]), name="labels")
    while True:
        time.sleep(60)
