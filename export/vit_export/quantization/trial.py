"""A graph opened as it is, before there is a file of it."""

import onnxruntime
from onnxscript import ir

from vit_engine.providers.sessions import keep_int8_exact


def trial_session(model: ir.Model) -> onnxruntime.InferenceSession:
    """Return a session on the CPU that computes int8 as the runtime's own sessions do."""
    settings = onnxruntime.SessionOptions()
    keep_int8_exact(settings)
    serialized = ir.serde.serialize_model(model).SerializeToString()
    return onnxruntime.InferenceSession(serialized, settings, providers=["CPUExecutionProvider"])
