"""A FastAPI wrapper as people write it: decoding and the model in a thread for each request.

python -m serving_contenders.by_hand MODEL --port PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from vit_engine import Classifier

app = FastAPI()
vit = Classifier.load(sys.argv[1], provider="cpu")


def labels_of(data: bytes) -> list[dict[str, Any]]:
    """Return the best labels of one image."""
    (found,) = vit.predictions(vit.engine.run(vit.pixels(data)[None]))
    return [{"label": score.label, "score": score.score} for score in found.topk]


async def classify(request: Request) -> Any:
    """Label one image."""
    return await run_in_threadpool(labels_of, await request.body())


async def health() -> Any:
    """Tell that it is there."""
    return {"status": "ready"}


app.add_api_route("/", classify, methods=["POST"])
app.add_api_route("/health", health)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[3]), log_level="error", access_log=False)
