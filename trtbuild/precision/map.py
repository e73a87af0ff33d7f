"""PrecisionMap: one precision and one reason for every node of the main graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trtbuild.recipe import Precision


@dataclass(frozen=True)
class NodePrecision:
    """What one node runs in, and why.

    `lowered_by_default` says whether the recipe's default would have lowered this node: those
    nodes are what the budget is a share of. `pinned` says that a rule holds the node above what it
    would have run in without rules.
    """

    op_type: str
    precision: Precision
    reason: str
    lowered_by_default: bool
    pinned: bool


@dataclass(frozen=True)
class RuleMatch:
    """How many nodes a rule matched, and the precision of how many it changed."""

    rule: str
    matched: int
    effective: int


@dataclass(frozen=True)
class PrecisionMap:
    """The resolved precisions, in graph order. `default` and `fallback` are the recipe's."""

    default: Precision
    fallback: Precision
    nodes: Mapping[str, NodePrecision]
    rules: tuple[RuleMatch, ...]

    def __getitem__(self, node: str) -> Precision:
        return self.nodes[node].precision

    @property
    def used(self) -> set[Precision]:
        return {node.precision for node in self.nodes.values()}

    @property
    def pinned(self) -> list[str]:
        """Every pin that must hold in what is built."""
        return [name for name, node in self.nodes.items() if node.pinned]

    @property
    def budgeted(self) -> int:
        """How many pins count against the budget: those on nodes that the default would have lowered."""
        return sum(node.pinned and node.lowered_by_default for node in self.nodes.values())

    @property
    def lowerable(self) -> int:
        """How many nodes the default precision would have lowered without any rule."""
        return sum(node.lowered_by_default for node in self.nodes.values())

    @property
    def share(self) -> float:
        """Pinned share of the nodes that the default would have lowered, 0 to 1."""
        return self.budgeted / self.lowerable if self.lowerable else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "default": self.default,
            "fallback": self.fallback,
            "lowerable": self.lowerable,
            "pinned": self.pinned,
            "budgeted": self.budgeted,
            "share": self.share,
            "rules": [asdict(rule) for rule in self.rules],
            "nodes": {name: asdict(node) for name, node in self.nodes.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PrecisionMap:
        return cls(
            default=data["default"],
            fallback=data["fallback"],
            nodes={name: NodePrecision(**node) for name, node in data["nodes"].items()},
            rules=tuple(RuleMatch(**rule) for rule in data["rules"]),
        )
