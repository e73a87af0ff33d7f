"""Which trial is the best, and which are on the front."""

from __future__ import annotations

import math

import pytest

from trtbuild.recipe.tuned import Setting
from trtbuild.tune.findings import Findings, Judged, Measured, OnEngine, ranked
from trtbuild.tune.judge import Judgement
from trtbuild.tune.trial import Trial


def judged(number: int, pins: int, figure: float, level: int, error: float = 0.1) -> Judged:
    judgement = Judgement(
        passed=level > 0, margin=level > 1, figure=figure, drop=None, interval=None, failing=()
    )
    trial = Trial(Setting(method="minmax"), tuple(f"n{i}" for i in range(pins)))
    return Judged(trial, (error, error), number, pins, "", judgement)


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([judged(1, 0, 0.9, 0), judged(2, 1, 0.8, 1)], 2),  # passing goes before a larger figure
        ([judged(1, 3, 0.99, 2), judged(2, 2, 0.98, 2), judged(3, 2, 0.97, 2)], 2),  # then fewer pins
        ([judged(1, 0, 0.98, 1), judged(2, 5, 0.97, 2)], 2),  # a margin is worth pins
        ([judged(1, 0, 0.97, 1), judged(2, 3, 0.98, 1), judged(3, 2, 0.98, 1)], 3),  # without one the figure
        ([judged(1, 0, 0.5, 0), judged(2, 4, 0.6, 0)], 2),
        ([judged(1, 1, 0.9, 2, error=0.2), judged(2, 1, 0.9, 2, error=0.1)], 2),
        ([judged(1, 1, 0.9, 2, error=math.inf), judged(2, 1, 0.9, 2, error=math.inf)], 1),
        ([judged(1, 0, -math.inf, 0), judged(2, 1, -math.inf, 0)], 1),
    ],
)
def test_the_best(trials: list[Judged], best: int) -> None:
    for order in (trials, trials[::-1]):
        found = Findings(judged=order).best
        assert found is not None
        assert found.number == best


def test_nothing_is_best_of_nothing() -> None:
    assert Findings().best is None
    with pytest.raises(ValueError, match="nothing was judged"):
        _ = Findings().outcome


def test_what_fails_as_an_engine_is_not_the_best() -> None:
    findings = Findings(judged=[judged(1, 0, 0.99, 2), judged(2, 2, 0.98, 2)])
    assert findings.outcome == "passed with margin"
    findings.engines = [OnEngine(1, "k", False, 0.9), OnEngine(2, "l", True, 0.98)]
    assert findings.best is not None
    assert findings.best.number == 2
    assert findings.outcome == "passed with margin"
    findings.engines = [OnEngine(1, "k", False, 0.9), OnEngine(2, "l", False, 0.9)]
    assert findings.best.number == 1
    assert findings.outcome == "failed"


def test_the_front_has_no_trial_that_another_one_beats() -> None:
    trials = [
        judged(1, 0, 0.8, 0),
        judged(2, 0, 0.9, 0, error=0.2),
        judged(3, 0, 0.9, 0, error=0.1),
        judged(4, 1, 0.9, 0),
        judged(5, 2, 0.95, 2),
        judged(6, 2, 0.94, 2),
    ]
    assert Findings(judged=trials).front() == {3, 5}


def measured(errors: tuple[float, ...], **setting: object) -> Measured:
    return Measured(Trial(Setting.model_validate({"method": "minmax", **setting})), errors)


def test_what_repairs_less_goes_before_what_is_not_clearly_better() -> None:
    plain = measured((1.0, 1.0, 1.0, 1.0))
    slightly = measured((0.99, 1.0, 0.98, 1.0), equalize=0.5)
    clearly = measured((0.1, 0.1, 0.1, 0.1), equalize=0.5, bias_correction=True)
    assert ranked([plain, slightly]) == [plain, slightly]
    assert ranked([slightly, clearly, plain]) == [clearly, plain, slightly]
    assert ranked([measured((math.inf, 1.0)), plain])[0] == plain
