"""The task metric: a function in the user's metric.py, and the labels it is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.functions import from_file
from trtbuild.names import nearest
from trtbuild.targets.session import Tensors

LARGEST = 1e100  # the sum of larger ones may be infinite
WANTED = "a number, or (score, confidence)"
SLACK = 1e-6
"""What float32 probabilities may be above 1 by rounding."""


@dataclass(frozen=True)
class Score:
    """What a metric says of one sample. `confidence`: of the prediction that `value` judges, 0 to 1; None
    where the metric returns none."""

    value: float
    confidence: float | None = None


@dataclass(frozen=True)
class Metric:
    """A loaded metric: `function(outputs, label)` for one sample, higher is better.

    It returns the score; or (score, confidence), both 0 to 1, for the calibration error.
    """

    name: str
    function: Callable[[Tensors, Any], Any]
    labels: dict[str, Any]

    def __call__(self, outputs: Tensors, sample: str) -> Score:
        """Score one sample. Raises InputError when the metric raises or returns no such numbers."""
        if sample not in self.labels:
            raise InputError(f"no label for sample {sample!r}{nearest(sample, self.labels)}")
        try:
            with redirect_stdout(sys.stderr):  # ours may be one JSON document
                returned = self.function(outputs, self.labels[sample])
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # it is the user's code: pytest.fail, sys.exit
            raise InputError(
                f"metric {self.name} raised {type(error).__name__} on sample {sample}: {error}; "
                "-v shows its traceback"
            ) from error
        pair = isinstance(returned, tuple)
        if pair and len(returned) != 2:
            raise self._returned(f"a tuple of {len(returned)}", sample, WANTED)
        try:
            numbers = [float(part) for part in (returned if pair else (returned,))]
        except (TypeError, ValueError) as error:
            raise self._returned(f"{type(returned).__name__} {returned!r:.60}", sample, WANTED) from error
        if not abs(numbers[0]) <= LARGEST:
            raise self._returned(f"{numbers[0]}", sample, "a finite number")
        if pair:
            for what, number in zip(("score", "confidence"), numbers, strict=True):
                if not 0 <= number <= 1 + SLACK:
                    raise self._returned(f"(score, confidence) with {what} {number}", sample, "0 to 1")
        return Score(*numbers)

    def _returned(self, what: str, sample: str, wanted: str) -> InputError:
        return InputError(f"metric {self.name} returned {what} for sample {sample}; expected {wanted}")


def load(reference: str, folder: Path, labels: Path) -> Metric:
    """Load `file.py:function`, relative to `folder`, and the labels JSON ({sample name: label}).

    Raises InputError when either cannot be loaded.
    """
    file, _, function = reference.rpartition(":")
    return Metric(reference, from_file(folder / file, function, "metric"), _labels(labels))


def metric_of(engine: Engine) -> Metric | None:
    """The task metric of the recipe, if it names one. Raises InputError when it cannot be loaded."""
    reference = engine.recipe.validation.metric
    if reference is None or engine.labels is None:
        return None
    return load(reference, engine.folder, engine.labels)


def _labels(path: Path) -> dict[str, Any]:
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such labels file") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(labels, dict):
        raise InputError(f"{path}: expected a JSON object of sample name to label")
    return labels
