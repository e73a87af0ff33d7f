"""How layers become the layers of an engine: fused, split by reformats, swallowed by a foreign node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .precision import LOWER, Step, has

_HEADS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_POINTWISE = ("ELEMENTWISE", "UNARY", "ACTIVATION")
_KINDS = {
    "CONVOLUTION": ("CaskConvolution", "Convolution"),
    "DECONVOLUTION": ("CaskDeconvolution", "Deconvolution"),
    "MATRIX_MULTIPLY": ("MatrixMultiply", "MatrixMultiply"),
    "POOLING": ("CaskPooling", "Pooling"),
    "SOFTMAX": ("CaskSoftMax", "SoftMax"),
    "CONSTANT": ("Constant", "Constant"),
    "QUANTIZE": ("Reformat", "Reformat"),
}


class Region:
    """One layer of an engine: the steps that it executes."""

    def __init__(self, steps: Sequence[Step], name: str, kind: str, parameter: str) -> None:
        self.steps, self.name, self.kind, self.parameter = list(steps), name, kind, parameter
        self.origin = "QDQ" if steps[0].type == "QUANTIZE" else ""
        self.weights = sum(step.weights for step in steps)
        made = {tensor.name for step in steps for tensor in step.outputs}
        read = {t.name: t for step in steps for t in step.inputs if t.name not in made}
        self.inputs = list(read.values())
        self.precision = steps[0].precision
        self.outputs = list(zip(steps[-1].outputs, steps[-1].given, strict=True))


def regions(steps: list[Step], network: Any, config: Any) -> list[Region]:
    """The layers of the engine in their order, without the reformats."""
    behaviour = network._trt._behaviour
    readers = Counter(tensor.name for step in steps for tensor in step.inputs)
    outputs = {network.get_output(index).name for index in range(network.num_outputs)}
    found: list[Region] = []
    fixed = _fixed(steps)
    rest = [step for step in steps if id(step) in fixed] + [step for step in steps if id(step) not in fixed]
    while rest:
        span = _foreign(rest, behaviour.foreign)
        if span:
            found.append(_foreign_region(rest[:span], config, len(found)))
            rest = rest[span:]
            continue
        chain = [rest.pop(0)]
        while (after := _next(chain, rest, readers, outputs, behaviour.foreign)) is not None:
            rest.remove(after)
            chain.append(after)
        found.append(_fused(chain))
    return found


def _fixed(steps: list[Step]) -> set[int]:
    """The constants, and the shuffles of constants: TensorRT has them ready before it begins."""
    fixed: set[int] = set()
    made: set[str] = set()
    for step in steps:
        shuffle = step.type == "SHUFFLE" and all(tensor.name in made for tensor in step.inputs)
        if step.type == "CONSTANT" or (shuffle and step.inputs):
            fixed.add(id(step))
            made.update(tensor.name for tensor in step.outputs)
    return fixed


def _next(
    chain: list[Step], rest: list[Step], readers: Counter[str], outputs: set[str], foreign: Any
) -> Step | None:
    """The one step that reads the last one's output, if it can be fused to it."""
    last = chain[-1]
    output = last.outputs[0].name
    if readers[output] != 1 or output in outputs:
        return None
    after = next((step for step in rest if output in (t.name for t in step.inputs)), None)
    if (
        after is None
        or after.precision != last.precision
        or after.name in (name for pair in foreign for name in pair)
    ):
        return None
    ready = {t.name for step in rest for t in step.outputs}
    if any(tensor.name in ready for tensor in after.inputs):
        return None
    pointwise = after.type in _POINTWISE and (chain[0].type in _HEADS or chain[0].type in _POINTWISE)
    folded = after.type == "SCALE" and last.type in _HEADS
    shuffled = after.type == "SHUFFLE" and chain[0].type == "CONSTANT"
    return after if pointwise or folded or shuffled else None


def _fused(chain: list[Step]) -> Region:
    if chain[0].type in _POINTWISE:
        name = ""
        for step in chain:
            name = f"PWN({name}, {step.name})" if name else f"PWN({step.name})"
        return Region(chain, name, "PointWiseV2", "PointWise")
    kind, parameter = _KINDS.get(chain[0].type, (chain[0].type.title(), chain[0].type.title()))
    return Region(chain, " + ".join(step.name for step in chain), kind, parameter)


def _foreign(rest: list[Step], spans: Any) -> int:
    """How many of the steps a foreign node takes that begins with the first one; 0 for none."""
    names = [step.name for step in rest]
    return next((names.index(last) + 1 for first, last in spans if names[0] == first and last in names), 0)


def _foreign_region(steps: list[Step], config: Any, number: int) -> Region:
    """One type for all of it, whatever was asked of its layers: half if the builder may."""
    lowered = next((kind for kind, flag in LOWER if has(config, flag)), "FLOAT")
    for step in steps:
        step.precision, step.given = lowered, [lowered] * len(step.given)
    if config._trt._version >= (10,):
        return Region(steps, f"__myl_Fused_myl0_{number}", "kgen", "")
    return Region(steps, f"{{ForeignNode[{steps[0].name}...{steps[-1].name}]}}", "Myelin", "")
