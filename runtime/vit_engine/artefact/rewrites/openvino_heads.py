"""Queries, keys and values as OpenVINO takes them apart fastest, in a model that it has read.

The graph splits one product's channels in three and puts the heads of each forward: OpenVINO copies
twice, and scales the queries in a pass of its own. Here the heads of all three come forward at
once, the split is of the outermost axis, which is no copy, and the scale is a factor of the
product's channels, which OpenVINO applies as it writes them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

SPLIT, RESHAPE, TRANSPOSE = "Split", "Reshape", "Transpose"
ATTENTION = "ScaledDotProductAttention"


def fuse_qkv_transpose(model: Any) -> None:
    """Change an openvino.Model in place, wherever its attention is as vit-export writes it.

    Where something stands between the split and the attention, as a rotation does, it is left.
    """
    from openvino import opset13 as op

    for found, joint in list(_attentions(model)):
        reshaped = joint.get_node().get_type_name() == RESHAPE  # as behind an int8 product
        tensor = joint.get_node().input_value(0) if reshaped else joint
        shape = found.output(0).get_partial_shape()
        heads, tokens, width = (shape[i].get_length() for i in (1, 2, 3))
        kind = tensor.get_element_type().to_dtype()
        inputs = found.input_values()[3:] or [op.constant(kind.type(0))]
        scale = kind.type(width**-0.5)
        if kind == np.float32 or scale == width**-0.5:
            factor = np.ones((3, heads * width), kind)
            factor[0] = scale
            tensor = op.multiply(tensor, op.constant(factor.reshape(1, -1)))
            inputs.append(op.constant(kind.type(1)))
        # else fp16 would round the factor, and OpenVINO computes the scale itself
        apart = op.reshape(tensor, op.constant([-1, tokens, 3, heads, width]), special_zero=False)
        forward = op.transpose(apart, op.constant([2, 0, 3, 1, 4]))
        thirds = op.split(forward, op.constant(0), 3)
        query, key, value = (op.squeeze(third, op.constant([0])) for third in thirds.outputs())
        attention = op.scaled_dot_product_attention(query, key, value, *inputs)
        attention.set_friendly_name(found.get_friendly_name())
        found.output(0).replace(attention.output(0))
    model.validate_nodes_and_infer_types()


def _attentions(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yield attention whose query, key and value are the thirds of one tensor, and that tensor."""
    for node in model.get_ops():
        if node.get_type_name() != ATTENTION or len(node.inputs()) > 4:
            continue
        sources = [_third(i.get_source_output().get_node()) for i in node.inputs()[:3]]
        if [s and s.get_index() for s in sources] != [0, 1, 2]:
            continue
        splits = [s.get_node() for s in sources if s]
        if len({s.get_friendly_name() for s in splits}) > 1 or len(splits[0].outputs()) != 3:
            continue
        yield node, splits[0].input_value(0)


def _third(node: Any) -> Any:
    """Return the output of a split that comes through a reshape and a transpose, else None."""
    for name in (TRANSPOSE, RESHAPE):
        if node.get_type_name() != name:
            return None
        source = node.input_value(0)
        node = source.get_node()
    return source if node.get_type_name() == SPLIT else None
