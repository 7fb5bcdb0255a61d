"""The public face: what `import vit_engine` gives, and that it costs nothing."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

import vit_engine
from support import ROOT
from vit_engine import Classifier, ImageError, Prediction, Score, UsageError, VitError
from vit_engine.outputs.prediction import failed

ROW = json.loads(
    '{"path": "images/cat.jpg", "label": "Egyptian cat", "index": 285, "score": 0.94, '
    '"topk": [{"label": "Egyptian cat", "index": 285, "score": 0.94}], '
    '"error": null, "error_code": null}'
)


def test_every_public_name_is_there() -> None:
    assert sorted(vit_engine.__all__) == vit_engine.__all__
    for name in vit_engine.__all__:
        assert getattr(vit_engine, name) is not None
    assert issubclass(UsageError, VitError)
    with pytest.raises(AttributeError, match="no attribute 'Classifer'"):
        _ = vit_engine.Classifer


def test_the_version_is_the_distributions() -> None:
    assert vit_engine.__version__ == metadata.version("vit-engine")


def test_importing_loads_nothing_and_starts_no_thread() -> None:
    script = (
        "import json, sys, threading, vit_engine\n"
        "print(json.dumps([threading.active_count(), sorted(sys.modules)]))\n"
        "from vit_engine import Classifier, Prediction, Score\n"
        "print(json.dumps([threading.active_count(), sorted(sys.modules)]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    (threads, bare), (later, whole) = map(json.loads, ended.stdout.splitlines())
    assert threads == later == 1
    assert not {"numpy", "PIL", "onnxruntime", "urllib.request", "importlib.metadata"} & set(bare)
    assert "onnxruntime" not in whole


def test_a_prediction_is_the_documented_row() -> None:
    made = Prediction("images/cat.jpg", (Score("Egyptian cat", 285, 0.94),))
    assert made.to_dict() == ROW
    assert list(made.to_dict()) == list(ROW)
    lost = failed("a.jpg", ImageError("empty", "is empty")).to_dict()
    assert (lost["label"], lost["topk"], lost["error_code"]) == (None, [], "empty")


def test_the_row_is_what_classify_gives() -> None:
    with Classifier.load("demo") as vit:
        (found,) = vit.classify(str(ROOT / "examples/star-01.png"), top_k=2)
    row = found.to_dict()
    assert row["label"] == row["topk"][0]["label"] == "star"
    assert len(row["topk"]) == 2
    assert json.loads(json.dumps(row)) == row
