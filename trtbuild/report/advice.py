"""What would address a layer's error: the pin that is missing, and why it is that one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from trtbuild.model.graph import node_name
from trtbuild.model.model import Model
from trtbuild.precision.map import NodePrecision, PrecisionMap
from trtbuild.report.rank import sqnr


@dataclass(frozen=True)
class Advice:
    """`pin`: lines for the recipe, to append; None where no pin helps. `advice`: one sentence."""

    pin: str | None
    advice: str


class Adviser:
    """Knows a model and the precisions of a build of it."""

    def __init__(self, model: Model, precisions: PrecisionMap) -> None:
        self._quantized, self._precisions = model.quantized, precisions
        self._nodes = {node_name(node): node for node in model.graph}

    def advise(self, row: Mapping[str, Any]) -> Advice:
        """On one layer of a document.

        The node itself is to blame where it runs low, unless `own` and `inherited` figures say that it hands
        on more error than it makes; otherwise the nearest node above that runs low.
        """
        name = row["node"]
        node, asked = self._nodes.get(name), self._precisions.nodes.get(name)
        if node is None or asked is None:
            return Advice(None, "no node of the model makes it")
        if self._quantized:
            return Advice(None, "the model brings its own Q/DQ: train or export it again")
        if _is_low(asked) and not _hands_on(row):
            return _raise(name, asked, "")
        above = self._nearest_low(node)
        if above is None:
            return Advice(None, f"{asked.precision}, and nothing above it is lower: no pin helps")
        why = f"{asked.precision} itself: " if not _is_low(asked) else "makes less error than it inherits: "
        return _raise(above, self._precisions.nodes[above], why)

    def _nearest_low(self, start: ir.Node) -> str | None:
        """The nearest node above, in steps, that runs low; of equally near ones the first input's."""
        seen, frontier = {start}, [start]
        while frontier:
            above = []
            for node in frontier:
                for value in node.inputs:
                    maker = value.producer() if value is not None else None
                    if maker is not None and maker not in seen:
                        seen.add(maker)
                        above.append(maker)
            for maker in above:
                if _is_low(self._precisions.nodes[node_name(maker)]):
                    return node_name(maker)
            frontier = above
        return None


def pin_of(node: str) -> str:
    """The rule that pins one node by its exact name, as TOML."""
    name = f"re:{re.escape(node)}" if node.startswith(("re:", "glob:")) else node
    quoted = json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[[pin]]\nname = {quoted}"


def _raise(name: str, node: NodePrecision, why: str) -> Advice:
    pinned = f"pinned to {node.precision} only" if node.pinned else f"runs in {node.precision} without a pin"
    return Advice(pin_of(name), f"{why}{name} {pinned}")


def _is_low(node: NodePrecision) -> bool:
    return node.precision != "fp32"


def _hands_on(row: Mapping[str, Any]) -> bool:
    own, inherited = row.get("own"), row.get("inherited")
    return own is not None and inherited is not None and sqnr(own) > sqnr(inherited)
