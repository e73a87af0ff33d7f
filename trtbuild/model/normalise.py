"""Bring any ONNX model into the one shape that the rest of trtbuild reads.

Constants become initializers and are folded, the opset is raised, shapes are inferred, and every
node gets a unique, stable name. Tensor names are kept: the golden diff matches by them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import onnxscript.version_converter

from trtbuild.errors import InputError, one_line

MIN_OPSET = 17
RAISED_OPSET = 18  # the version converter's result is bit-exact from here on
MIN_IR_VERSION = 8
ORIGINAL_NAME = "trtbuild.original_name"
FOLDED_ELEMENTS = 1 << 24  # larger results (an Expand of zeros, say) stay nodes
UNREGISTERED = "trtbuild.unregistered"


@dataclass(frozen=True)
class Normalisation:
    """What was changed: opsets before and after, and the new names of unnamed or repeated nodes."""

    opset_before: int
    opset_after: int
    named: int
    renamed: tuple[str, ...]


def normalise(model: ir.Model, unregistered: frozenset[str]) -> Normalisation:
    """Normalise `model` in place.

    `unregistered` are the operator types of the default domain that no ONNX opset knows (TensorRT
    plugins); they pass through untouched.
    Raises InputError when the opset cannot be raised.
    """
    before = model.opset_imports[""]
    with _silent("onnxscript", "onnx_ir"):
        passes.InlinePass()(model)
        passes.RemoveInitializersFromInputsPass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        if before < MIN_OPSET:
            _raise_opset(model, unregistered)
        onnxscript.optimizer.fold_constants(
            model, input_size_limit=FOLDED_ELEMENTS, output_size_limit=FOLDED_ELEMENTS
        )
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.RemoveUnusedNodesPass()(model)
        passes.ShapeInferencePass()(model)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    named, renamed = _name_nodes(model.graph)
    return Normalisation(before, model.opset_imports[""], named, renamed)


def _raise_opset(model: ir.Model, unregistered: frozenset[str]) -> None:
    """Convert to RAISED_OPSET; operators without a schema sit in a foreign domain meanwhile."""
    strangers = [node for node in model.graph if node.domain == "" and node.op_type in unregistered]
    for node in strangers:
        node.domain = UNREGISTERED
    if strangers:
        model.opset_imports[UNREGISTERED] = 1
    before = model.opset_imports[""]
    try:
        onnxscript.version_converter.convert_version(model, RAISED_OPSET, fallback=True)
    except Exception as error:  # the converter documents no error of its own
        raise InputError(_opset_message(before, one_line(error))) from error
    if model.opset_imports[""] != RAISED_OPSET:
        raise InputError(_opset_message(before, "the converter left the model as it was"))
    for node in model.graph:
        if node.domain == UNREGISTERED:
            node.domain = ""
    model.opset_imports.pop(UNREGISTERED, None)


def _opset_message(before: int, reason: str) -> str:
    return (
        f"cannot raise the model from opset {before} to {RAISED_OPSET} ({reason}); "
        f"export it with opset {MIN_OPSET} or later"
    )


def _name_nodes(graph: ir.Graph) -> tuple[int, tuple[str, ...]]:
    """Name unnamed nodes after their first output and make repeated names unique with `#2`, `#3`, …

    Both depend on the model alone, not on the position of a node, as long as tensor names stay.
    """
    taken = {node.name for node in graph if node.name}
    seen: set[str] = set()
    named, renamed = 0, []
    for node in graph:
        if not node.name:
            output = next((value.name for value in node.outputs if value.name), "")
            name, named = f"{node.op_type}_{output}", named + 1
            unique = _unique(name, taken | seen)
        elif node.name in seen:
            node.metadata_props[ORIGINAL_NAME] = node.name
            unique = _unique(node.name, taken | seen)
            renamed.append(unique)
        else:
            unique = node.name
        node.name = unique
        seen.add(unique)
    return named, tuple(renamed)


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"


@contextlib.contextmanager
def _silent(*loggers: str) -> Iterator[None]:
    """Keep the libraries' warnings off the terminal; their failures are checked by result."""
    previous = [(logging.getLogger(name), logging.getLogger(name).level) for name in loggers]
    for logger, _ in previous:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in previous:
            logger.setLevel(level)
