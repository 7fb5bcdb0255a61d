"""A large matrix product in ONNX Runtime, whose CPU kernels are not PyTorch's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import Job

SIDE = 4096


def load(job: Job) -> "Gemm":
    """Build a graph of one product, its right side constant as weights are."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    if job.options["precision"] == "int8":
        node, kinds = "MatMulInteger", (TensorProto.UINT8, TensorProto.INT32)
        a = random.integers(0, 128, (SIDE, SIDE), np.uint8)
        b = random.integers(-63, 64, (SIDE, SIDE), np.int8)
    else:
        node, kinds = "MatMul", (TensorProto.FLOAT, TensorProto.FLOAT)
        a, b = random.standard_normal((2, SIDE, SIDE), np.float32)
    graph = helper.make_graph(
        [helper.make_node(node, ["a", "b"], ["c"])],
        "gemm",
        [helper.make_tensor_value_info("a", kinds[0], [SIDE, SIDE])],
        [helper.make_tensor_value_info("c", kinds[1], [SIDE, SIDE])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Gemm(session, a)


class Gemm:
    """`run` multiplies once, whatever batch it is given, and returns a row for each image."""

    takes = "float32"

    def __init__(self, session: Any, a: NDArray[Any]) -> None:
        self.session, self.a = session, a

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply."""
        (product,) = self.session.run(None, {"a": self.a})
        return np.full((len(batch), 1), float(product[-1, -1]), np.float32)

    def describe(self) -> dict[str, Any]:
        """Say what runs, with the operations of one product."""
        import onnxruntime

        return {"runtime": f"onnxruntime {onnxruntime.__version__}", "operations": 2 * SIDE**3}
