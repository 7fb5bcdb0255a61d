"""A graph opened as it is, before there is a file of it."""

from typing import TYPE_CHECKING

from onnxscript import ir

from vit_engine.providers.availability import import_onnxruntime
from vit_engine.providers.sessions import keep_int8_exact

if TYPE_CHECKING:
    import onnxruntime


def open_model_session(model: ir.Model) -> "onnxruntime.InferenceSession":
    """Return a session on the CPU that computes int8 as the runtime's own sessions do."""
    ort = import_onnxruntime()
    settings = ort.SessionOptions()
    keep_int8_exact(settings)
    serialized = ir.serde.serialize_model(model).SerializeToString()
    return ort.InferenceSession(serialized, settings, providers=["CPUExecutionProvider"])
