"""trtbuild's metrics as a comparison function for Polygraphy, one that cannot pass by accident.

In Python, the golden's runner first:

    results = Comparator.run([golden_runner, candidate_runner], data_loader=samples)
    passed = bool(Comparator.compare_accuracy(results, compare_func=GoldenCompareFunc(sqnr_db=30)))

On Polygraphy's command line, with a script of two lines, say gate.py:

    from trtbuild.golden.compare_func import GoldenCompareFunc
    compare_outputs = GoldenCompareFunc(cosine=0.999, argmax_changed={"logits": 0.01})

    polygraphy run model.onnx --onnxrt --trt --compare-func-script gate.py
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray
from polygraphy import util
from polygraphy.comparator import BaseCompareFunc, IterationResult
from polygraphy.comparator.compare import CompareResult
from polygraphy.json import Decoder, Encoder
from polygraphy.logger import G_LOGGER

from trtbuild.errors import InputError
from trtbuild.golden.classes import ClassComparison, ClassDifference
from trtbuild.golden.gate import DEFAULT_THRESHOLDS
from trtbuild.golden.metrics import Comparison, Difference, incomparable

AT_LEAST = ("cosine", "sqnr_db")
OF_CLASSES = {"argmax_changed": "argmax_changed", "class_kl": "kl"}
"""What needs rows of class scores: threshold -> field of ClassDifference."""
DEFAULTS: dict[str, float] = DEFAULT_THRESHOLDS.model_dump(include={"cosine", "sqnr_db"})

Threshold = float | Mapping[str, float] | None


class GoldenResult(CompareResult):  # type: ignore[misc]  # polygraphy has no types
    """One output of one iteration: what was measured, and every reason why it failed; true without any.

    difference: None where the two could not be compared. classes: None where no threshold asked for it.
    """

    def __init__(
        self, difference: Difference | None, classes: ClassDifference | None, failures: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.difference = difference
        self.classes = classes
        self.failures = failures

    def __bool__(self) -> bool:
        return not self.failures


class GoldenCompareFunc(BaseCompareFunc):  # type: ignore[misc]  # polygraphy has no types
    """Compares the outputs of the golden, which is the first runner, with the candidate's.

    An output passes when both sides have it under this very name, with the same shape and dtype and at
    least one value; when it has no NaN on either side, and Inf only where the other has the same; and when
    every threshold holds. An output that one side lacks fails, whichever it is. What is measured: see
    `Difference` and `ClassDifference`, per iteration. Averages over iterations (`check_average`) are refused
    by Polygraphy: one perfect iteration would make a mean SQNR infinite.

    What never gets here it cannot fail: Polygraphy's Comparator passes no iterations at all, and with more
    of one side than of the other it warns and leaves out the rest.
    """

    def __init__(
        self,
        *,
        cosine: Threshold = None,
        sqnr_db: Threshold = None,
        max_abs: Threshold = None,
        max_rel: Threshold = None,
        rmse: Threshold = None,
        argmax_changed: Threshold = None,
        class_kl: Threshold = None,
        class_axis: int = -1,
    ) -> None:
        """Each threshold is a number for all outputs, or output -> number with "" for all others.

        cosine and sqnr_db are the least that passes, the others the most. argmax_changed (a share of the
        rows) and class_kl (nats) are of outputs with class scores along `class_axis`. An output without
        any threshold is held to the defaults of trtbuild's gate, cosine 0.99 and sqnr_db 15. A threshold
        for an output that neither side has fails the comparison.
        Raises InputError when a threshold is no finite number.
        """
        given = {
            **{"cosine": cosine, "sqnr_db": sqnr_db, "max_abs": max_abs, "max_rel": max_rel, "rmse": rmse},
            **{"argmax_changed": argmax_changed, "class_kl": class_kl},
        }
        self._thresholds = {
            name: _by_output(name, value) for name, value in given.items() if value is not None
        }
        self._class_axis = class_axis

    def __call__(self, golden: IterationResult, candidate: IterationResult) -> OrderedDict[str, GoldenResult]:
        """Compare one iteration; a result for every output that either side or a threshold names."""
        named = {name for outputs in self._thresholds.values() for name in outputs if name}
        results: OrderedDict[str, GoldenResult] = OrderedDict()
        for name in dict.fromkeys([*golden.keys(), *candidate.keys(), *sorted(named)]):
            missing = _missing(name, golden, candidate)
            result = (
                GoldenResult(None, None, (missing,)) if missing else self._compare(name, golden, candidate)
            )
            results[name] = result
            _log(name, result)
        return results

    def _compare(self, name: str, golden: IterationResult, candidate: IterationResult) -> GoldenResult:
        a, b = util.array.to_numpy(golden[name]), util.array.to_numpy(candidate[name])
        wanted = self._wanted(name)
        problem = incomparable(a, b) or self._without_classes(wanted, a)
        if problem:
            return GoldenResult(None, None, (problem,))
        comparison = Comparison()
        comparison.update(a, b)
        found, classes = comparison.result(), None
        if wanted.keys() & OF_CLASSES:
            rows = ClassComparison(self._class_axis)
            rows.update(a, b)
            classes = rows.result()
        failures = (*_not_finite(found), *_beyond(wanted, found, classes))
        result = GoldenResult(found, classes, failures)
        result.output0_name = result.output1_name = name  # for the statistics that Polygraphy logs
        return result

    def _wanted(self, output: str) -> dict[str, float]:
        wanted = {}
        for name, by_output in self._thresholds.items():
            value = by_output.get(output, by_output.get(""))
            if value is not None:
                wanted[name] = value
        return wanted or DEFAULTS

    def _without_classes(self, wanted: Mapping[str, float], array: NDArray[Any]) -> str | None:
        if not wanted.keys() & OF_CLASSES:
            return None
        axis = self._class_axis
        if -array.ndim <= axis < array.ndim and array.shape[axis] > 1:
            return None
        return f"no class scores along axis {axis} of shape {array.shape}; give the threshold per output"


def _by_output(name: str, value: float | Mapping[str, float]) -> dict[str, float]:
    by_output = dict(value) if isinstance(value, Mapping) else {"": value}
    for output, number in by_output.items():
        if not (isinstance(number, int | float) and math.isfinite(number)):
            place = f" of output {output!r}" if output else ""
            raise InputError(f"threshold {name}{place} is {number!r}; expected a finite number")
    return by_output


def _missing(name: str, golden: Mapping[str, Any], candidate: Mapping[str, Any]) -> str | None:
    if name in golden and name in candidate:
        return None
    if name in golden:
        return "the candidate does not have this output"
    return "the golden does not have this output" if name in candidate else "no such output, yet a threshold"


def _not_finite(found: Difference) -> Iterator[str]:
    if found.nan_golden or found.nan_candidate:
        yield f"NaN: {found.nan_candidate} values, golden {found.nan_golden}"
    if found.nonfinite_unmatched:
        yield f"NaN or Inf that the other side lacks: {found.nonfinite_unmatched} values"
    if not (found.count or found.nonfinite_golden):
        yield "no values to compare"


def _beyond(wanted: Mapping[str, float], found: Difference, classes: ClassDifference | None) -> Iterator[str]:
    """The thresholds that do not hold; written so that NaN fails."""
    for name, limit in wanted.items():
        seen = getattr(classes, OF_CLASSES[name]) if name in OF_CLASSES else getattr(found, name)
        holds, sign = (seen >= limit, ">=") if name in AT_LEAST else (seen <= limit, "<=")
        if not holds:
            yield f"{name} {seen:.6g}, wanted {sign} {limit:g}"


def _log(name: str, result: GoldenResult) -> None:
    if result.failures:
        G_LOGGER.error(f"FAILED | Output: `{name}` | {'; '.join(result.failures)}")
    elif result.difference:
        found = result.difference
        G_LOGGER.finish(
            f"PASSED | Output: `{name}` | cosine {found.cosine:.6g}, SQNR {found.sqnr_db:.4g} dB, "
            f"max abs {found.max_abs:.4g}, max rel {found.max_rel:.4g}"
        )


@Encoder.register(GoldenResult)  # type: ignore[untyped-decorator]  # polygraphy has no types
def _encode(result: GoldenResult) -> dict[str, Any]:
    """For `--save-accuracy-results`."""
    parts = {"difference": result.difference, "classes": result.classes}
    measured = {name: asdict(part) if part else None for name, part in parts.items()}
    return {**measured, "failures": list(result.failures)}


@Decoder.register(GoldenResult)  # type: ignore[untyped-decorator]
def _decode(stored: dict[str, Any]) -> GoldenResult:
    difference, classes = stored["difference"], stored["classes"]
    return GoldenResult(
        Difference(**difference) if difference else None,
        ClassDifference(**classes) if classes else None,
        tuple(stored["failures"]),
    )
