"""Reading an explicit model back: what is rounded how on the way into every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import onnx_ir as ir
import pytest

from calibrators.table import Range, RangeTable
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.rewrite.explicit import ranges_needed

HALF_NAMES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}

Path = tuple[str, tuple[str, ...]]
"""The original tensor that a node reads, and the precisions it is rounded to on the way, in order."""


@pytest.fixture(scope="session")
def resolve() -> Callable[..., PrecisionMap]:
    """The precision map of a model under rules written as for `--pin`."""

    def resolved(model: Model, *pins: str, default: str = "int8", fallback: str = "fp32") -> PrecisionMap:
        section = PrecisionSection.model_validate({"default": default, "fallback": fallback})
        return rules.resolve(model, section, [Pin.parse(pin) for pin in pins])

    return resolved


@pytest.fixture(scope="session")
def table() -> Callable[..., RangeTable]:
    """A range for every tensor that needs one: `amax`, or what `tensors` says."""

    def made(model: Model, amax: float = 4.0, tensors: Mapping[str, float] | None = None) -> RangeTable:
        ranges = dict.fromkeys(ranges_needed(model), amax) | dict(tensors or {})
        return RangeTable({name: Range(value, "test") for name, value in ranges.items()}, None, 1)

    return made


@pytest.fixture(scope="session")
def paths() -> Callable[[Model, ir.Model], dict[tuple[str, int], Path]]:
    """(node, input index) -> Path, for the nodes of the original graph; ("", index) for its outputs."""

    def read(model: Model, rewritten: ir.Model) -> dict[tuple[str, int], Path]:
        originals = {node.name for node in model.graph}
        found = {
            (str(node.name), index): _path(value, originals)
            for node in rewritten.graph
            if node.name in originals
            for index, value in enumerate(node.inputs)
            if value is not None
        }
        outputs = enumerate(rewritten.graph.outputs)
        return found | {("", index): _path(value, originals) for index, value in outputs}

    return read


def _path(value: ir.Value, originals: set[str | None]) -> Path:
    steps: list[str] = []
    node = value.producer()
    while node is not None and node.name not in originals:
        if node.op_type == "DequantizeLinear":
            steps.insert(0, "int8")
        elif node.outputs[0].dtype in HALF_NAMES:
            steps.insert(0, HALF_NAMES[node.outputs[0].dtype])
        else:
            assert node.op_type in ("Cast", "QuantizeLinear")
        value = node.inputs[0]
        node = value.producer()
    if node is not None and value.dtype in HALF_NAMES:  # it computes in half, so it rounds itself
        steps.insert(0, HALF_NAMES[value.dtype])
    distinct = [step for index, step in enumerate(steps) if index == 0 or step != steps[index - 1]]
    return str(value.name).removesuffix("::raw"), tuple(distinct)


@pytest.fixture(scope="session")
def valid() -> Callable[[ir.Model], None]:
    """ONNX's checker, types and shapes included."""
    return lambda model: onnx.checker.check_model(ir.to_proto(model), full_check=True)
