"""Where the error of a layer comes from: how much of it each node above has added."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

import onnx_ir as ir

from trtbuild.model.graph import with_bodies
from trtbuild.report.rank import Row, sqnr

ADDITIVE = frozenset({"Add", "Concat", "Sub", "Sum"})
LEAST_DB = -300.0  # stands for no signal at all, where a finite power is needed


class Origins:
    """Traces errors up a graph, by the rows of the layers that were compared. is_low: whether a node runs in
    a precision that a pin can raise."""

    def __init__(self, graph: ir.Graph, layers: Iterable[Row], is_low: Callable[[ir.Node], bool]) -> None:
        self._is_low = is_low
        self._position = {node: position for position, node in enumerate(graph)}
        self._rows = {row["tensor"]: row for row in layers if row["difference"]}

    def shares(self, value: ir.Value, row: Row) -> dict[ir.Node, float]:
        """Node -> its share of the error of `value`, a node's output; together 1. `row`: what is known of it.

        A layer has added own / (own + inherited) of its error, as powers; the rest is dealt out to what it
        reads: by the power of those errors where it adds or joins, else by their power relative to the
        golden's. Where its node runs in float32, the share is that of a lower node between it and what was
        compared above it, if there is one. Where own and inherited errors are not known, all is of the
        nearest node that runs low. Errors count as independent of each other, which they are not quite.
        """
        shares = defaultdict[ir.Node, float](float)
        rows = {**self._rows, str(value.name): row}
        waiting = {value: 1.0}
        while waiting:
            value = max(waiting, key=lambda value: self._position[_maker(value)])
            weight, node, row = waiting.pop(value), _maker(value), rows[str(value.name)]
            added = _added(row)
            if added is None:
                shares[self._nearest_low([node]) or node] += weight
                continue
            above = self._compared_above(node)
            shares[self._nearest_low([node], {_maker(read) for read in above}) or node] += weight * added
            errors = {read: _power(self._rows[str(read.name)], node) for read in above}
            total = sum(errors.values())
            if total:
                for read, error in errors.items():
                    waiting[read] = waiting.get(read, 0.0) + weight * (1 - added) * error / total
            else:  # from somewhere that was not compared
                shares[self._nearest_low(_makers(node)) or node] += weight * (1 - added)
        return {node: share for node, share in shares.items() if share}

    def _compared_above(self, node: ir.Node) -> list[ir.Value]:
        """The nearest values above that were compared, through others."""
        found, seen, waiting = [], set[ir.Value](), _reads(node)
        while waiting:
            value = waiting.pop(0)
            if value in seen:
                continue
            seen.add(value)
            if str(value.name) in self._rows:
                found.append(value)
            else:
                waiting += _reads(_maker(value))
        return found

    def _nearest_low(self, starts: Sequence[ir.Node], stop: Collection[ir.Node] = ()) -> ir.Node | None:
        """The nearest node that runs low, in steps up from `starts`, these first and none of `stop`; of
        equally near ones the first input's."""
        frontier, seen = list(starts), {*starts, *stop}
        while frontier:
            for node in frontier:
                if self._is_low(node):
                    return node
            makers = dict.fromkeys(maker for node in frontier for maker in _makers(node))
            frontier = [maker for maker in makers if maker not in seen]
            seen.update(frontier)
        return None


def _reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads, and what its bodies capture, of what other nodes of its graph make."""
    values = (value for inner in with_bodies(node) for value in inner.inputs if value is not None)
    return [value for value in values if value.producer() is not None and value.graph is node.graph]


def _makers(node: ir.Node) -> list[ir.Node]:
    return [_maker(value) for value in _reads(node)]


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _added(row: Row) -> float | None:
    """How much of its error a layer has added itself; None where that is not known."""
    if row.get("own") is None or row.get("inherited") is None:
        return None
    own, inherited = _relative(row["own"]), _relative(row["inherited"])
    return own / (own + inherited) if own else 0.0


def _power(row: Row, reader: ir.Node) -> float:
    """Of an error, in the unit that matters to who reads it."""
    l2 = row["difference"].get("l2")
    return float(l2) ** 2 if reader.op_type in ADDITIVE and l2 is not None else _relative(row["difference"])


def _relative(difference: Row) -> float:
    return float(10 ** (-max(sqnr(difference), LEAST_DB) / 10))
