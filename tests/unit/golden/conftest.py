"""What the golden tests share: a shard folder from an array, and a model with everything for a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibrators.shards import ShardSet
from trtbuild import calibrate
from trtbuild.golden.check import check
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.verdict import Verdict
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import CalibrationSection, Pin, PrecisionSection, ValidationSection
from trtbuild.rewrite.explicit import explicit
from trtbuild.targets.base import Side
from trtbuild.targets.sides import OnnxRuntimeSide, as_given


@pytest.fixture
def shard_set(tmp_path: Path) -> Callable[..., ShardSet]:
    """The shards of a model: one file per dict of arrays."""

    def write(model: Model, *shards: dict[str, NDArray[Any]]) -> ShardSet:
        folder = tmp_path / "shards"
        folder.mkdir()
        for index, arrays in enumerate(shards):
            np.savez(folder / f"{index}.npz", **arrays)  # type: ignore[arg-type]
        return ShardSet.open(folder, model.inputs)

    return write


@dataclass(frozen=True)
class Case:
    """A model, an honest candidate for it, and samples."""

    model: Model
    candidate: ir.Model
    precisions: PrecisionMap
    shards: ShardSet

    def check(
        self, candidate: ir.Model | None = None, metric: Metric | None = None, **section: Any
    ) -> Verdict:
        return self.check_sides(self.golden, self.side(candidate), metric, **section)

    def check_sides(
        self, golden: Side, candidate: Side, metric: Metric | None = None, **section: Any
    ) -> Verdict:
        wanted = ValidationSection.model_construct(**{**dict(ValidationSection()), **section})
        return check(self.model, golden, candidate, self.precisions, self.shards, metric, wanted)

    @property
    def golden(self) -> OnnxRuntimeSide:
        return as_given(self.model)

    def side(self, candidate: ir.Model | None = None) -> OnnxRuntimeSide:
        """The candidate in ONNX Runtime, as target onnxruntime runs it."""
        return OnnxRuntimeSide("candidate", candidate or self.candidate, cut=bool(self.model.unrunnable))


@pytest.fixture
def case_of() -> Callable[..., Case]:
    """What `trtbuild build` makes of a model, without writing it anywhere."""

    def make(model: Model, shards: ShardSet, *pins: Pin, **precision: Any) -> Case:
        precisions = rules.resolve(model, PrecisionSection(**precision), pins)
        table = calibrate.calibrate(model, shards, CalibrationSection(), 4)
        return Case(model, explicit(model, precisions, table, "simulated"), precisions, shards)

    return make
