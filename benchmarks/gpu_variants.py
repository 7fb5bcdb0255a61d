"""Other ways to run the same model on CUDA, which gpu.py measures against the engine's own."""

from pathlib import Path
from typing import Any

from vit_engine.artefact.attention import Attention, primitive, replace_attention
from vit_engine.artefact.nodes import node
from vit_engine.artefact.protobuf import field
from vit_engine.errors import ProviderError
from vit_engine.providers import cuda, obstacles

VARIANTS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    # name: attention, provider options, session settings
    "Attention": ("standard", {}, {}),
    "MultiHeadAttention": ("contrib", {}, {}),
    "primitive": ("primitive", {}, {}),
    "Attention, SkipLayerNormalization": ("skip", {}, {}),
    "Attention, flash": ("standard", {"sdpa_kernel": "1"}, {}),
    "Attention, cuDNN": ("standard", {"sdpa_kernel": "8"}, {}),
    "MultiHeadAttention, flash": ("contrib", {"sdpa_kernel": "1"}, {}),
    "MultiHeadAttention, cuDNN": ("contrib", {"sdpa_kernel": "8"}, {}),
    "Attention, GEMM tuned": ("standard", {}, {"ep.cuda.enable_gemm_auto_tune": "1"}),
    "Attention, strict LayerNorm": (
        "standard",
        {"enable_skip_layer_norm_strict_mode": "1"},
        {},
    ),
}


def session_of_variant(
    model: str, attention: str, options: dict[str, str], settings: dict[str, str]
) -> Any:
    """Open a CUDA session with another attention, other provider options, other settings."""
    if reason := cuda.CUDA.obstacle(0):
        raise ProviderError(str(reason))
    ort = obstacles.import_onnxruntime()
    data = Path(model).read_bytes()
    if attention == "primitive":
        data = replace_attention(data, primitive)
    elif attention == "contrib":
        # ModelProto.opset_import (8): the domain and version of ONNX Runtime's own operators.
        data = replace_attention(data, contrib)
        data += field(8, field(1, "com.microsoft") + field(2, 1))
    elif attention == "skip":
        data = with_skip_layer_norm(data)
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4
    for name, value in settings.items():
        session_options.add_session_config_entry(name, value)
    chosen = cuda.OPTIONS | {"device_id": "0", "enable_cuda_graph": "1"} | options
    wanted = [("CUDAExecutionProvider", chosen)]
    session = ort.InferenceSession(data, session_options, providers=wanted, enable_fallback=0)
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise ProviderError("it opened on the CPU")
    return session


def with_skip_layer_norm(model: bytes) -> bytes:
    """Fuse bias, residual and LayerNormalization into ONNX Runtime's SkipLayerNormalization.

    Its own optimiser leaves them apart, since the sum is needed further on as well.
    """
    import onnx

    proto = onnx.load_from_string(model)
    nodes = proto.graph.node
    maker = {name: node for node in nodes for name in node.output}
    drop = []
    for norm in [n for n in nodes if n.op_type == "LayerNormalization"]:
        residual = maker.get(norm.input[0])
        biased = maker.get(residual.input[1]) if residual and residual.op_type == "Add" else None
        product = maker.get(biased.input[0]) if biased and biased.op_type == "Add" else None
        if not (residual and biased and product and product.op_type == "MatMul"):
            continue
        bias = biased.input[1]
        inputs = [product.output[0], residual.input[0], *norm.input[1:3], bias]
        epsilon = next(a.f for a in norm.attribute if a.name == "epsilon")
        norm.input[:] = inputs
        norm.op_type, norm.domain = "SkipLayerNormalization", "com.microsoft"
        norm.output[:] = [norm.output[0], "", "", residual.output[0]]
        del norm.attribute[:]
        norm.attribute.append(onnx.helper.make_attribute("epsilon", epsilon))
        drop += [residual, biased]
    for old in drop:
        nodes.remove(old)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    # Their sums come from the fused nodes, which may stand behind their other readers.
    ordered = in_order(nodes, {t.name for t in (*proto.graph.input, *proto.graph.initializer)})
    del nodes[:]
    nodes.extend(ordered)
    return bytes(proto.SerializeToString())


def in_order(nodes: Any, known: set[str]) -> list[Any]:
    """Return the nodes so that each stands behind those that it reads."""
    waiting, ordered = list(nodes), []
    known = known | {""}
    while waiting:
        ready = [n for n in waiting if known.issuperset(n.input)]
        waiting = [n for n in waiting if not known.issuperset(n.input)]
        assert ready, "the graph has a cycle"
        ordered += ready
        known.update(name for n in ready for name in n.output)
    return ordered


def contrib(attention: Attention) -> tuple[list[bytes], list[bytes]]:
    """ONNX Runtime's own MultiHeadAttention, which takes the same three inputs."""
    a = attention
    made = node("MultiHeadAttention", a.inputs, a.output, domain="com.microsoft", num_heads=a.heads)
    return [made], []
