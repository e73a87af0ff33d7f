"""The model file as it was given, for TensorRT's own parser: nothing rewritten, its nodes named as in the
normalised graph, so that rules mean the same nodes in both."""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.model import files
from trtbuild.model.graph import node_name
from trtbuild.model.model import Model
from trtbuild.model.normalise import inline_and_name


def as_given(model: Model) -> ir.Model:
    """Read the file again and name its nodes as normalising began. Functions are inlined, as rules see them.

    A node that normalising replaced by one of another name takes that name, where it makes the same tensor.
    """
    given = files.read(model.path)
    inline_and_name(given)
    normalised = {str(v.name): node_name(node) for node in model.graph for v in node.outputs if v.name}
    kept = set(normalised.values())
    taken = {node_name(node) for node in given.graph}
    for node in given.graph:
        replaced = (normalised.get(str(value.name)) for value in node.outputs)
        name = next((name for name in replaced if name is not None), None)
        if node.name not in kept and name is not None and name not in taken:
            node.name = name
            taken.add(name)
    return given
