"""What a golden check says: each check of the gate, the figures, and whether it passed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.scores import MetricScores


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    seen: str
    wanted: str


@dataclass(frozen=True)
class Verdict:
    """`passed` only if every check did. `first_divergence` is the first layer, in graph order, whose
    SQNR is below 20 dB: where to look first. `not_checked`: node or tensor -> why."""

    passed: bool
    checks: tuple[Check, ...]
    metric: MetricScores | None
    outputs: tuple[TensorDiff, ...]
    layers: tuple[TensorDiff, ...]
    first_divergence: str | None
    not_checked: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "metric": self.metric.to_dict() if self.metric else None,
            "outputs": [diff.to_dict() for diff in self.outputs],
            "layers": [diff.to_dict() for diff in self.layers],
            "first_divergence": self.first_divergence,
            "not_checked": self.not_checked,
        }
