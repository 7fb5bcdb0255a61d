"""Other ways to run vit-engine's artefact on CUDA: what might yet be faster than its own.

Options: `attention`, a key of REWRITES, and `provider_options` for ONNX Runtime's CUDA provider.
"""

from collections.abc import Callable
from typing import Any

from comparison.contenders import ours
from comparison.job import AbsentError, Contender, Job, versions_of
from vit_engine.artefact.metadata import read_contract
from vit_engine.artefact.nodes import node
from vit_engine.artefact.protobuf import field
from vit_engine.artefact.rewrites.attention import Attention, primitive, replace_attention
from vit_engine.errors import ProviderError
from vit_engine.providers import cuda
from vit_engine.providers.buckets import BucketSession, buckets_up_to
from vit_engine.providers.obstacles import import_onnxruntime
from vit_engine.providers.provider import Request
from vit_engine.providers.sessions import open_session

MODEL_OPSET_IMPORT = 8
"""Field of ONNX's ModelProto: domain (1) and version (2) of a set of operators."""

convert = ours.convert


def load(job: Job) -> Contender:
    """Open the rewritten artefact on CUDA, with CUDA graphs, behind the engine's own buffers."""
    path = ours.artefact_path(job)
    if reason := cuda.CUDA.obstacle(0, None):
        raise AbsentError(str(reason))
    request = Request(path, read_contract(path))
    options = cuda.options(request, graphs=True) | job.options["provider_options"]
    model = REWRITES[job.options["attention"]](path.read_bytes())
    try:
        session = open_session(request, {"cuda": options}, model=model)
    except ProviderError as e:
        raise AbsentError(str(e)) from e
    buckets = buckets_up_to(job.max_batch)
    bucketed = BucketSession(
        session, request.contract, device=("cuda", 0), buckets=buckets, graphs=True
    )
    about = {"compute": "fp16", "runtime": versions_of(import_onnxruntime())}
    return Contender("uint8", bucketed.run, about)


def with_contrib_attention(model: bytes) -> bytes:
    """Put ONNX Runtime's MultiHeadAttention, which takes the same inputs, in Attention's place."""

    def contrib(a: Attention) -> tuple[list[bytes], list[bytes]]:
        domain = "com.microsoft"
        return [
            node("MultiHeadAttention", a.inputs, a.output, domain=domain, num_heads=a.heads)
        ], []

    operators = field(1, "com.microsoft") + field(2, 1)
    return replace_attention(model, contrib) + field(MODEL_OPSET_IMPORT, operators)


def with_skip_layer_norm(model: bytes) -> bytes:
    """Fuse bias, residual and LayerNormalization into ONNX Runtime's SkipLayerNormalization.

    Its own optimiser leaves them apart, since the sum is needed further on as well.
    """
    import onnx

    proto = onnx.load_from_string(model)
    nodes = proto.graph.node
    maker = {name: node for node in nodes for name in node.output}

    def made_by(name: str, operator: str) -> Any:
        found = maker.get(name)
        return found if found is not None and found.op_type == operator else None

    for norm in [n for n in nodes if n.op_type == "LayerNormalization"]:
        residual = made_by(norm.input[0], "Add")
        biased = residual and made_by(residual.input[1], "Add")
        product = biased and made_by(biased.input[0], "MatMul")
        if not product:
            continue
        epsilon = next(a.f for a in norm.attribute if a.name == "epsilon")
        fused = onnx.helper.make_node(
            "SkipLayerNormalization",
            [product.output[0], residual.input[0], *norm.input[1:3], biased.input[1]],
            [norm.output[0], "", "", residual.output[0]],
            domain="com.microsoft",
            epsilon=epsilon,
        )
        nodes.insert(list(nodes).index(residual), fused)  # before all who read the sum
        for old in (residual, biased, norm):
            nodes.remove(old)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return bytes(proto.SerializeToString())


REWRITES: dict[str, Callable[[bytes], bytes]] = {
    "standard": lambda model: model,
    "primitive": lambda model: replace_attention(model, primitive),
    "contrib": with_contrib_attention,
    "skip": with_skip_layer_norm,
}
