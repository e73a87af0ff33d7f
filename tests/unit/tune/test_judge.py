"""The gate over all samples: what passes, what passes with a margin, and what cannot be judged at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.metric_file import Metric
from trtbuild.model.model import Model
from trtbuild.precision.rules import resolve
from trtbuild.recipe import PrecisionSection, ValidationSection
from trtbuild.targets.base import Side
from trtbuild.targets.sides import OnnxRuntimeSide, as_given
from trtbuild.tune.judge import Judge, Judgement

TEXT = "g (float[n,4] x) => (float[n,4] y) { y = Mul(x, gain) }"
SAMPLES = 200


@pytest.fixture
def model(open_toy: Callable[..., Model]) -> Model:
    return open_toy(TEXT, {"gain": np.ones(4, np.float32)})


@pytest.fixture
def shards(model: Model, write_shards: Callable[..., ShardSet]) -> ShardSet:
    """Sample i has i in its first place."""
    x = np.random.default_rng(0).standard_normal((SAMPLES, 4)).astype(np.float32)
    x[:, 0] = np.arange(SAMPLES)
    return write_shards(model, {"x": x})


def number_of(outputs: Mapping[str, Any]) -> int:
    return int(outputs["y"].ravel()[0])


def wrong_on(count: int) -> Metric:
    """Scores 0 for the first `count` samples where the last output is not the golden's sign."""

    def score(outputs: Mapping[str, Any], label: float) -> float:
        flipped = np.sign(outputs["y"].ravel()[3]) != label
        return 0.0 if flipped and number_of(outputs) < count else 1.0

    return Metric("m.py:score", score, {})


def labelled(metric: Metric, shards: ShardSet) -> Metric:
    labels = {}
    for batch in shards.batches(1):
        (name,) = batch.names
        labels[name] = float(np.sign(batch.feeds["x"].ravel()[3]))
    return Metric(metric.name, metric.function, labels)


def side(open_toy: Callable[..., Model], last: float) -> Side:
    """The model with another gain in its last place."""
    gain = np.array([1, 1, 1, last], np.float32)
    return OnnxRuntimeSide("candidate", open_toy(TEXT, {"gain": gain}).normalised)


def judge(model: Model, shards: ShardSet, metric: Metric | None, **section: Any) -> Judge:
    if metric is not None:
        section = {"metric": "m.py:score", "labels": "l.json", "max_drop": 0.05, **section}
        metric = labelled(metric, shards)
    validation = ValidationSection.model_validate(section)
    return Judge(model, as_given(model), shards, metric, validation, seed=0)


def judged(found: Judge, model: Model, candidate: Side) -> Judgement:
    return found.judge(candidate, resolve(model, PrecisionSection(default="fp32"), ()))


@pytest.mark.parametrize(
    ("wrong", "passed", "margin"), [(0, True, True), (5, True, True), (9, True, False), (20, False, False)]
)
def test_a_margin_is_more_than_to_pass(
    model: Model, shards: ShardSet, open_toy: Callable[..., Model], wrong: int, passed: bool, margin: bool
) -> None:
    """5 % of 200 samples are 10; nine may be more on other samples."""
    found = judged(judge(model, shards, wrong_on(wrong)), model, side(open_toy, -1))
    assert (found.passed, found.margin) == (passed, margin)
    assert found.figure == pytest.approx(1 - wrong / SAMPLES)
    assert found.drop == pytest.approx(wrong / SAMPLES)
    assert found.interval is not None
    assert (found.interval[1] <= 0.05) is margin
    assert bool(found.failing) is not passed
    assert Judgement.from_dict(found.to_dict()) == found


def test_without_a_metric_the_least_sqnr_is_the_figure(
    model: Model, shards: ShardSet, open_toy: Callable[..., Model]
) -> None:
    near, far = (
        judged(judge(model, shards, None, outputs={"sqnr_db": 20}), model, side(open_toy, 1 + error))
        for error in (0.01, 300.0)
    )
    assert (near.passed, near.margin, near.drop) == (True, True, None)
    assert near.figure > 20 > far.figure
    assert not far.passed
    assert "sqnr_db" in far.failing[0] or "SQNR" in far.failing[0]


def test_thresholds_must_hold_on_halves_too(
    model: Model, write_shards: Callable[..., ShardSet], open_toy: Callable[..., Model]
) -> None:
    """One sample holds all of the error: a half with it is worse than the whole, one without is exact."""
    x = np.ones((20, 4), np.float32)
    x[:, 3] = 0
    x[7, 3] = 1
    lone = write_shards(model, {"x": x})
    whole = judged(judge(model, lone, None, outputs={"sqnr_db": 1}), model, side(open_toy, 2)).figure
    limit = {"sqnr_db": whole - 0.1}
    found = judged(judge(model, lone, None, outputs=limit), model, side(open_toy, 2))
    assert found.passed
    assert not found.margin
    assert judged(judge(model, lone, None, outputs={"sqnr_db": whole - 6}), model, side(open_toy, 2)).margin


def test_layers_are_not_looked_at(model: Model, shards: ShardSet, open_toy: Callable[..., Model]) -> None:
    found = judge(model, shards, None, outputs={"sqnr_db": 20}, layers={"sqnr_db": 500})
    assert judged(found, model, side(open_toy, 1.0)).passed


def reference(found: Judge, model: Model, candidate: Side, margin: bool = True) -> Judgement:
    nothing = resolve(model, PrecisionSection(default="fp32"), ())
    return found.check_reference(candidate, nothing, margin)


def test_the_float_model_must_pass(model: Model, shards: ShardSet, open_toy: Callable[..., Model]) -> None:
    with pytest.raises(InputError, match=r"the gate fails the float model itself, .* metric m\.py:score"):
        reference(judge(model, shards, wrong_on(50)), model, side(open_toy, -1))
    assert reference(judge(model, shards, wrong_on(50)), model, side(open_toy, 1)).margin


@pytest.mark.parametrize(
    ("max_drop", "said"), [(0.01, "about 368 are needed"), (0.0, "no number of samples")]
)
def test_too_few_samples_are_said_with_the_number_needed(
    model: Model, shards: ShardSet, open_toy: Callable[..., Model], max_drop: float, said: str
) -> None:
    found = judge(model, shards, wrong_on(0), max_drop=max_drop)
    with pytest.raises(InputError, match=said):
        reference(found, model, side(open_toy, 1))
    assert not reference(found, model, side(open_toy, 1), margin=False).margin


def test_a_metric_is_asked_twice(model: Model, shards: ShardSet, open_toy: Callable[..., Model]) -> None:
    scores = iter(np.linspace(0, 1, 10 * SAMPLES).tolist())
    metric = Metric("m.py:score", lambda outputs, label: next(scores), {})
    with pytest.raises(InputError, match=r"not deterministic: sample .* scored 0, then 0\.0005"):
        reference(judge(model, shards, metric), model, side(open_toy, 1))
