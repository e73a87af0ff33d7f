"""Entropy from histograms against TensorRT's algorithm from all raw values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from calibrators import entropy, minmax
from calibrators.histogram import Histogram
from tests.unit.calibrators import literal_entropy
from trtbuild.model.model import Model
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.targets.session import infer, runner

NEEDS = ("PIL", "rapidocr_onnxruntime", "font_roboto", "font_source_sans_pro", "font_source_serif_pro")
RNG = np.random.default_rng(11)
HEAVY_TAILS = {
    "one outlier": np.append(np.maximum(RNG.standard_normal(1_000_000), 0), 60),
    "some outliers": np.append(RNG.standard_normal(1_000_000), RNG.uniform(30, 60, 20)),
    "student": RNG.standard_t(2.5, 1_000_000),
    "mostly padding": np.append(RNG.laplace(size=200_000), np.full(800_000, 0.37)),
}


@pytest.mark.parametrize("name", HEAVY_TAILS)
def test_heavy_tails_are_clipped_where_the_reference_clips_them(name: str) -> None:
    x = HEAVY_TAILS[name].astype(np.float32)
    histogram = Histogram()
    histogram.update(x)
    assert entropy.amax(histogram) == pytest.approx(literal_entropy.amax(x), rel=0.01)
    assert entropy.amax(histogram) < 0.8 * minmax.amax(histogram) == 0.8 * np.abs(x).max()


def test_the_ranges_of_a_real_model(prepare: Callable[..., Path]) -> None:
    """64 lines of text, twice through the model: the reference needs to know where values end first."""
    folder = prepare("ocr-rec", "--calibration", "64", "--validation", "1", needs=NEEDS)
    model = Model.open(folder / "model.onnx")
    histograms = {tensor: Histogram() for tensor in ranges_needed(model)}
    for tensor, values in activations(model, folder / "shards"):
        histograms[tensor].update(values)
    counts = {tensor: np.zeros(2048, np.int64) for tensor in histograms}
    for tensor, values in activations(model, folder / "shards"):
        counts[tensor] += np.histogram(np.abs(values), 2048, (0, histograms[tensor].absmax))[0]

    assert {tensor: int(of.sum()) for tensor, of in counts.items()} == {
        tensor: histogram.count for tensor, histogram in histograms.items()
    }
    deviations = np.array(
        [
            entropy.amax(histogram) / literal_entropy.amax_of_counts(counts[tensor], histogram.absmax) - 1
            for tensor, histogram in histograms.items()
        ]
    )
    assert deviations.size == 55
    assert np.mean(np.abs(deviations) <= 0.01) >= 0.95
    assert np.abs(deviations).max() <= 0.05


def activations(model: Model, shards: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor that needs a range, shard by shard."""
    tensors = ranges_needed(model)
    inputs = {spec.name for spec in model.inputs}
    cut = with_outputs(model.normalised, [tensor for tensor in tensors if tensor not in inputs])
    with runner(cut, "reference") as active:
        for shard in sorted(shards.glob("*.npz")):
            feeds = dict(np.load(shard))
            outputs = {**feeds, **infer(active, feeds, shard.name)}
            yield from ((tensor, outputs[tensor]) for tensor in tensors)
