"""The task metric: a function in the user's metric.py, and the labels it is given."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild.errors import InputError
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
    return Metric(reference, _function(folder / file, function), _labels(labels))


def _function(path: Path, name: str) -> Callable[[Tensors, Any], float]:
    if not path.is_file():
        raise InputError(f"{path}: no such metric file")
    spec = importlib.util.spec_from_file_location(f"trtbuild_metric_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up there
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is the user's code; a script may end with sys.exit
        raise InputError(
            f"{path} raised {type(error).__name__} when loaded: {error}; -v shows its traceback"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{path} has no function {name!r}{nearest(name, vars(module))}")
    return function  # type: ignore[no-any-return]


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
