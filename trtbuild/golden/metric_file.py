"""The task metric: a function in the user's metric.py, and the labels it is given."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild.errors import InputError
from trtbuild.functions import from_file
from trtbuild.names import nearest
from trtbuild.targets.session import Tensors


@dataclass(frozen=True)
class Metric:
    """A loaded metric: `function(outputs, label) -> float` for one sample, higher is better."""

    name: str
    function: Callable[[Tensors, Any], float]
    labels: dict[str, Any]

    def __call__(self, outputs: Tensors, sample: str) -> float:
        """Score one sample. Raises InputError when the metric raises or returns no finite number."""
        if sample not in self.labels:
            raise InputError(f"no label for sample {sample!r}{nearest(sample, self.labels)}")
        try:
            with redirect_stdout(sys.stderr):  # ours may be one JSON document
                score = float(self.function(outputs, self.labels[sample]))
        except (Exception, SystemExit) as error:  # it is the user's code
            raise InputError(
                f"metric {self.name} raised {type(error).__name__} on sample {sample}: {error}; "
                "-v shows its traceback"
            ) from error
        if not math.isfinite(score):
            raise InputError(
                f"metric {self.name} returned {score} for sample {sample}; expected a finite number"
            )
        return score


def load(reference: str, folder: Path, labels: Path) -> Metric:
    """Load `file.py:function`, relative to `folder`, and the labels JSON ({sample name: label}).

    Raises InputError when either cannot be loaded.
    """
    file, _, function = reference.rpartition(":")
    return Metric(reference, from_file(folder / file, function, "metric"), _labels(labels))


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
