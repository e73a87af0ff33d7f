"""The checks that no recipe takes away: everything was compared, and nothing has NaN or Inf of its own."""

from __future__ import annotations

from collections.abc import Sequence

from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.verdict import Check


def compared(layers: Sequence[TensorDiff] | None, outputs: Sequence[TensorDiff]) -> Check:
    """Inside, a tensor may be empty in every sample; an output without a value was not compared.

    layers: None where the golden is a stored one.
    """
    diffs = [*(layers or ()), *outputs]
    missing = [f"{diff.tensor}: {diff.problem}" for diff in diffs if diff.difference is None]
    missing += [f"{diff.tensor}: no values in any sample" for diff in outputs if _is_empty(diff)]
    missing += ["no layers"] if layers is not None and not layers else []
    missing += [] if outputs else ["no outputs"]
    seen = f"{max(0, len(diffs) - len(missing))} of {len(diffs)}"
    seen += "; outputs only (stored golden)" if layers is None else ""
    seen += f"; {'; '.join(missing[:3])}" if missing else ""
    return Check("every tensor compared", not missing, seen, "all")


def _is_empty(diff: TensorDiff) -> bool:
    found = diff.difference
    return found is not None and not (found.count + found.nonfinite_golden + found.nonfinite_candidate)


def finite(layers: Sequence[TensorDiff], outputs: Sequence[TensorDiff]) -> Check:
    """Inside, a mask of -inf is legitimate where the golden has it too; an output must be finite."""
    bad = [diff.tensor for diff in layers if diff.difference and diff.difference.nonfinite_unmatched]
    bad += [
        diff.tensor
        for diff in outputs
        if diff.difference and (diff.difference.nonfinite_candidate or diff.difference.nonfinite_golden)
    ]
    names = list(dict.fromkeys(bad))
    wanted = "none in outputs, inside none that the golden lacks"
    return Check("no NaN or Inf", not names, ", ".join(names[:3]) or "none", wanted)
