"""Random graphs under random pins: the invariant of the explicit model, in both renderings.

Of every edge it states all roundings on the way from the producer to the consumer: the producer's half
if it runs in one; then the consumer's half, or int8, if the consumer's form covers this input; nothing
else. So no pinned node, at whatever precision, reads a dequantized tensor or one that was rounded for a
neighbour, and an int8 node reads quantized tensors on exactly the edges of its form.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibrators.table import RangeTable
from trtbuild.model.model import Model
from trtbuild.precision.forms import NoForm, half_form, int8_forms
from trtbuild.precision.map import PrecisionMap
from trtbuild.rewrite.explicit import explicit

OPSET = 22
SHAPE = (1, 4, 6, 6)
RNG = np.random.default_rng(0)
WEIGHTS = {
    "conv_w": RNG.standard_normal((4, 4, 3, 3)) / 6,
    "conv_w2": RNG.standard_normal((4, 4, 3, 3)) / 6,
    "narrow_w": RNG.standard_normal((4, 8, 1, 1)) / 3,
    "mat_w": RNG.standard_normal((6, 6)) / 3,
    "bias": RNG.standard_normal(6) / 3,
    "factor": RNG.standard_normal((1, 4, 1, 1)) / 3,
}
KINDS = (
    "conv",
    "matmul",
    "matmul left",
    "matmul of two",
    "gemm",
    "add",
    "mul",
    "scale",
    "relu",
    "softmax",
    "concat",
)
KINDS += ("residual block", "normalised residual")

Spec = tuple[str, int, int, int]


def build(specs: list[Spec], shown: set[int]) -> onnx.ModelProto:
    """A graph whose tensors all have SHAPE; each spec is a kind, its two operands, and which weight."""
    tensors, nodes = ["x", "x2"], []

    def node(op_type: str, inputs: list[str], **attributes: Any) -> str:
        output = f"t{len(nodes)}"
        nodes.append(onnx.helper.make_node(op_type, inputs, [output], f"n{len(nodes)}", **attributes))
        return output

    for kind, first, second, choice in specs:
        a, b = tensors[first % len(tensors)], tensors[second % len(tensors)]
        conv_w = ("conv_w", "conv_w2")[choice % 2]
        if kind == "conv":
            result = node("Conv", [a, conv_w], pads=[1, 1, 1, 1])
        elif kind == "matmul":
            result = node("MatMul", [a, "mat_w"])
        elif kind == "matmul left":
            result = node("MatMul", ["mat_w", a])
        elif kind == "matmul of two":
            result = node("MatMul", [a, b])
        elif kind == "gemm":
            flat = node("Reshape", [a, "rows"])
            product = node("Gemm", [flat, "mat_w", "bias"], transB=choice % 2)
            result = node("Reshape", [product, "shape"])
        elif kind == "scale":
            result = node("Mul", [a, "factor"])
        elif kind == "concat":
            both = node("Concat", [a, b], axis=1)
            result = node("Conv", [both, "narrow_w"])
        elif kind == "residual block":
            inner = node("Relu", [node("Conv", [a, conv_w], pads=[1, 1, 1, 1])])
            result = node(
                "Add", [node("Conv", [inner, conv_w], pads=[1, 1, 1, 1]), a][:: 1 - 2 * (choice % 2)]
            )
        elif kind == "normalised residual":
            inner = node("Conv", [a, conv_w], pads=[1, 1, 1, 1])
            result = node("Add", [node("BatchNormalization", [inner, *["ones"] * 4]), a])
        elif kind in ("add", "mul"):
            result = node(kind.title(), [a, b])
        else:
            result = node(kind.title(), [a])
        tensors.append(result)
    read = {name for made in nodes for name in made.input}
    outputs = [name for i, name in enumerate(tensors[2:]) if name not in read or i in shown]
    constants = {name: array.astype(np.float32) for name, array in WEIGHTS.items()}
    constants |= {"ones": np.ones(4, np.float32), "rows": np.asarray([24, 6]), "shape": np.asarray(SHAPE)}
    graph = onnx.helper.make_graph(
        nodes,
        "random",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE) for name in ("x", "x2")],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", OPSET)])


PRECISIONS = st.sampled_from([None, "int8", "fp16", "bf16", "fp32"])
SPECS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)),
    min_size=1,
    max_size=7,
)


def expected_paths(
    model: Model, precisions: PrecisionMap
) -> dict[tuple[str, int], tuple[str, tuple[str, ...]]]:
    """The invariant, written down from the decisions alone."""
    forms = int8_forms(model.graph)

    def half_of(value: ir.Value) -> list[str]:
        node = value.producer()
        if node is None or precisions[str(node.name)] not in ("fp16", "bf16"):
            return []
        form = half_form(node, precisions[str(node.name)], OPSET)
        return [precisions[str(node.name)]] if value.index() in getattr(form, "outputs", ()) else []

    def covered(node: ir.Node, index: int) -> list[str]:
        precision = precisions[str(node.name)]
        if precision == "int8":
            form = forms[str(node.name)]
            assert not isinstance(form, NoForm)
            return ["int8"] if index in {edge.index for edge in form} else []
        half = half_form(node, precision, OPSET) if precision != "fp32" else None
        return [precision] if index in getattr(half, "inputs", ()) else []

    def joined(before: list[str], after: list[str]) -> tuple[str, ...]:
        return tuple(before if before == after else before + after)

    edges = {
        (str(node.name), index): (str(value.name), joined(half_of(value), covered(node, index)))
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if value is not None
    }
    outputs = enumerate(model.graph.outputs)
    return edges | {("", index): (str(value.name), tuple(half_of(value))) for index, value in outputs}


def test_every_edge_is_rounded_as_decided_and_no_more(
    tmp_path_factory: Any,
    resolve: Callable[..., PrecisionMap],
    table: Callable[..., RangeTable],
    paths: Callable[..., Any],
    valid: Callable[..., None],
    run: Callable[..., Any],
) -> None:
    path: Path = tmp_path_factory.mktemp("random") / "model.onnx"
    seen: set[str] = set()

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        specs=SPECS,
        shown=st.sets(st.integers(0, 6), max_size=3),
        pins=st.lists(PRECISIONS, min_size=28, max_size=28),
        default=st.sampled_from(["int8", "fp16", "bf16"]),
        fallback=st.sampled_from(["fp32", "fp16", "bf16"]),
    )
    def holds(
        specs: list[Spec], shown: set[int], pins: list[str | None], default: str, fallback: str
    ) -> None:
        path.write_bytes(build(specs, shown).SerializeToString())
        model = Model.open(path)
        chosen = [
            f"{node.name}={pin}" for node, pin in zip(model.graph, pins, strict=False) if pin is not None
        ]
        precisions = resolve(model, *chosen, default=default, fallback=fallback)
        seen.update(node.precision for node in precisions.nodes.values())
        expected = expected_paths(model, precisions)
        for rendering in ("typed", "simulated"):
            rendered = explicit(model, precisions, table(model), rendering)
            assert paths(model, rendered) == expected
            quantized_edges = sum("int8" in steps for _, steps in expected.values())
            operators = [node.op_type for node in rendered.graph]
            assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == quantized_edges
            valid(rendered)
        feeds = {name: RNG.standard_normal(SHAPE).astype(np.float32) for name in ("x", "x2")}
        outputs = run(rendered, feeds)
        assert list(outputs) == [str(value.name) for value in model.graph.outputs]
        untouched = explicit(model, resolve(model, "glob:*=fp32", default=default), None, "simulated")
        assert ir.to_proto(untouched).SerializeToString() == ir.to_proto(model.normalised).SerializeToString()

    holds()
    assert seen == {"int8", "fp16", "bf16", "fp32"}
