"""What would address a layer's error: the pin that is missing, and why it is that one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from trtbuild.model.graph import activations, node_name
from trtbuild.model.model import Model
from trtbuild.precision.map import NodePrecision, PrecisionMap
from trtbuild.report.origin import Origins
from trtbuild.report.rank import Row

MOST = 0.5


@dataclass(frozen=True)
class Advice:
    """`pin`: lines for the recipe, to append; None where no pin helps. `advice`: one sentence."""

    pin: str | None
    advice: str


class Adviser:
    """Knows a model, the precisions of a build of it, and the rows of all layers that were compared."""

    def __init__(self, model: Model, precisions: PrecisionMap, layers: Iterable[Row] = ()) -> None:
        self._quantized, self._precisions = model.quantized, precisions
        self._values = {value.name: value for value in activations(model.graph)}
        self._origins = Origins(model.graph, layers, lambda node: _is_low(precisions.nodes[node_name(node)]))

    def advise(self, row: Row) -> Advice:
        """On one layer of a document.

        To blame is the node above, or its own, that runs low and has added most to the layer's error, as far
        as `own` and `inherited` errors tell; where they are not known, the nearest that runs low. Where most
        was added in float32, no pin helps.
        On ocr-rec without pins, pinning what is named and checking again, two pins bring the logits from 9 to
        17 dB; twelve of the nearest ones do nothing for them. A pin may also make things worse there, as
        errors are neither additive nor monotone: each is to be checked.
        """
        value, asked = self._values.get(row["tensor"]), self._precisions.nodes.get(row["node"])
        if value is None or asked is None:
            return Advice(None, "no node of the model makes it")
        if self._quantized:
            return Advice(None, "the model brings its own Q/DQ: train or export it again")
        shares = {node_name(node): share for node, share in self._origins.shares(value, row).items()}
        low = {name: share for name, share in shares.items() if _is_low(self._precisions.nodes[name])}
        known = row.get("own") is not None and row.get("inherited") is not None
        if sum(low.values()) < MOST:
            most = max(shares, key=shares.__getitem__)
            adds = f"{most} adds {shares[most]:.0%} of its error, in fp32"
            nothing = f"{asked.precision}, and nothing above it is lower"
            return Advice(None, f"{adds if known else nothing}: no pin helps")
        name = max(low, key=low.__getitem__)
        why = f"{low[name]:.0%} of its error, the largest part: " if known else ""
        if not known and name != row["node"]:
            why = f"{asked.precision} itself: "
        return _raise(name, self._precisions.nodes[name], why)


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
