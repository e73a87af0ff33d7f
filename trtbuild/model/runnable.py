"""Which part of a graph ONNX Runtime can run: everything before a TensorRT plugin or another stranger."""

from __future__ import annotations

import functools

import onnx.defs
import onnx_ir as ir

from trtbuild.model.graph import downstream, with_bodies


def unregistered_operators(graph: ir.Graph) -> frozenset[str]:
    """Operator types of the default domain that no ONNX opset defines (EfficientNMS_TRT, …)."""
    return frozenset(
        node.op_type for node in graph.all_nodes() if node.domain == "" and not onnx.defs.has(node.op_type)
    )


def unrunnable(model: ir.Model) -> dict[str, str]:
    """Nodes that ONNX Runtime cannot run, because of their operator or of one before them.

    Returns node name -> the reason, in graph order.
    """
    functions = {(key[0], key[1]) for key in model.functions}
    culprits = {
        node: sorted(
            {
                inner.op_type
                for inner in with_bodies(node)
                if (inner.domain, inner.op_type) not in functions
                and not _has_kernel(inner.domain, inner.op_type)
            }
        )
        for node in model.graph
    }
    strangers = {node for node, operators in culprits.items() if operators}
    everywhere = ", ".join(sorted({operator for node in strangers for operator in culprits[node]}))
    reached = downstream(model.graph, strangers)
    return {
        str(node.name): f"ONNX Runtime has no kernel for {', '.join(culprits[node])}"
        if node in strangers
        else f"comes after {everywhere}, which ONNX Runtime cannot run"
        for node in model.graph
        if node in reached
    }


def _has_kernel(domain: str, op_type: str) -> bool:
    if (domain, op_type) in _kernels() or (domain, op_type) == ("", "Constant"):  # Constant needs none
        return True
    if domain != "" or not onnx.defs.has(op_type):
        return False
    schema = onnx.defs.get_schema(op_type)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]


@functools.cache
def _kernels() -> frozenset[tuple[str, str]]:
    from onnxruntime.capi import _pybind_state

    return frozenset(
        ("" if kernel.domain == "ai.onnx" else kernel.domain, kernel.op_name)
        for kernel in _pybind_state.get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider"
    )
