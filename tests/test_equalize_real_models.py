"""Every ONNX model that ships inside an installed package, equalized: its float function stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibrators.shards import ShardSet
from tests.real_models import every_model, image_size
from trtbuild.calibrate import calibrate
from trtbuild.equalization import equalize
from trtbuild.model.graph import activations
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.recipe import CalibrationSection, Recipe
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.equalize import equalized
from trtbuild.rewrite.explicit import explicit
from trtbuild.rewrite.folds import folds
from trtbuild.targets.session import Tensors, infer, runner

SAMPLES = 2
WITHOUT_FOLDS = ("magika",)
DENORMAL = 1e-30
"""Some weights are so small that a factor moves them out of the normal numbers."""
FAINT = 1e-4
"""A detector shown noise finds nothing: what it says is rounding."""


@pytest.fixture
def samples(path: Path) -> Tensors:
    """Seeded random inputs, SAMPLES of them along axis 0."""
    rng = np.random.default_rng(0)
    (spec,) = Model.open(path).inputs
    free = zip(spec.shape[1:], (3, *image_size(path)), strict=False)
    shape = (SAMPLES, *(fixed or length for fixed, length in free))
    if np.issubdtype(spec.dtype, np.integer):
        return {spec.name: rng.integers(0, 257, shape).astype(spec.dtype)}
    return {spec.name: rng.uniform(-1, 1, shape).astype(spec.dtype)}


def shown(model: Model, tensors: list[str], feeds: Tensors) -> Tensors:
    with runner(with_outputs(model.normalised, tensors), "model") as active:
        return infer(active, feeds, "a sample")


@every_model
def test_powers_of_two_change_no_bit(path: Path, samples: Tensors) -> None:
    """Of any activation, divided by its factors, but for what is near the end of float32."""
    model, rng = Model.open(path), np.random.default_rng(0)
    found = list(folds(model))
    assert found or any(name in str(path) for name in WITHOUT_FOLDS)
    changed = equalized(model, {fold.tensor: np.exp2(rng.integers(-5, 6, fold.size)) for fold in found})
    tensors = [str(value.name) for value in activations(model.graph)]
    before, after = shown(model, tensors, samples), shown(changed, tensors, samples)
    for tensor, array in before.items():
        factors = changed.scaled[tensor].array if tensor in changed.scaled else 1
        np.testing.assert_allclose(after[tensor] / factors, array, rtol=0, atol=DENORMAL, err_msg=tensor)


@every_model
def test_equalized_by_its_samples(path: Path, samples: Tensors, tmp_path: Path) -> None:
    """Outputs stay, and the range of no equalized activation grows."""
    model = Model.open(path)
    np.savez(tmp_path / "samples.npz", **samples)  # type: ignore[arg-type]
    shards = ShardSet.open(tmp_path, model.inputs)
    changed = equalize(model, shards, 0.5, SAMPLES, 1e9)
    outputs = list(model.checked_outputs)
    before, after = shown(model, outputs, samples), shown(changed, outputs, samples)
    for name in outputs:
        tolerance = max(1e-4 * float(np.abs(before[name]).max()), FAINT)
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=tolerance)
    section = CalibrationSection(equalize=0.5)
    plain, table = (calibrate(each, shards, section, SAMPLES) for each in (model, changed))
    for fold in folds(model):
        assert table.ranges[fold.tensor].amax <= 1.001 * plain.ranges[fold.tensor].amax
    recipe = Recipe()
    explicit(changed, rules.resolve(changed, recipe.precision, recipe.pin), table, "typed")
