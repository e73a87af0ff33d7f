"""The paired drop, its interval, and what is concluded from it."""

import json
from importlib import resources

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbuild.golden.metric_file import Score
from trtbuild.golden.scores import (
    FEW,
    BaselineScores,
    MetricScores,
    Paired,
    calibration_error,
    pair,
    unseen,
)

RNG = np.random.default_rng(3)


def flips(samples, lost, won=0):
    """Right on both sides but for `lost` samples that the candidate loses and `won` that it wins."""
    reference = [1.0] * lost + [0.0] * won + [1.0] * (samples - lost - won)
    candidate = [0.0] * lost + [1.0] * won + [1.0] * (samples - lost - won)
    return Paired(tuple(reference), tuple(candidate))


def test_the_drop_is_that_of_the_means():
    paired = Paired((1.0, 0.5, 0.0), (0.0, 0.5, 0.25))
    assert paired.drop == pytest.approx(0.25)
    assert paired.samples == 3


def test_the_interval_agrees_with_the_normal_one():
    """By the central limit theorem: mean of the drops, give or take 1.96 standard errors."""
    drops = RNG.normal(0.3, 1, 2000)
    reference = RNG.random(2000)
    low, high = Paired(tuple(reference), tuple(reference - drops)).interval
    error = 1.96 * drops.std() / np.sqrt(2000)
    assert low == pytest.approx(drops.mean() - error, abs=0.004)
    assert high == pytest.approx(drops.mean() + error, abs=0.004)


def test_the_interval_agrees_with_the_binomial_one():
    """40 of 400 lost: resampled losses are binomial(400, 0.1), whose 2.5 % quantiles are 29 and 52."""
    assert flips(400, 40).interval == (pytest.approx(29 / 400, abs=1e-3), pytest.approx(52 / 400, abs=1e-3))


def test_what_is_hard_for_both_does_not_widen_it():
    scores = RNG.random(100)
    paired = Paired(tuple(scores), tuple(scores - 0.25))
    assert paired.interval == (pytest.approx(0.25), pytest.approx(0.25))


def test_it_holds_the_truth_as_often_as_it_says():
    """200 sets of 100 samples whose true drop is 0.05: the 95 % interval misses it in about 10."""
    missed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        drops = rng.choice([1.0, 0.0, -1.0], size=100, p=[0.1, 0.85, 0.05])
        low, high = Paired(tuple(drops), (0.0,) * 100).interval
        missed += not low <= 0.05 <= high
    assert 2 <= missed <= 22


def test_more_resamples_than_fit_at_once(monkeypatch):
    """In parts they are the very same, and as many."""
    paired = Paired(tuple(RNG.random(300)), tuple(RNG.random(300)))
    for at_once in (1 << 20, 700_000, 1):
        monkeypatch.setattr("trtbuild.golden.scores._AT_ONCE", at_once)
        assert Paired(paired.reference, paired.candidate).interval == paired.interval


def test_one_sample_has_no_interval():
    paired = Paired((1.0,), (1.0,))
    assert paired.interval is None
    assert paired.against(1.0) == "undecided"
    assert paired.samples_needed(1.0) is None


@pytest.mark.parametrize("drop", [0.0, 0.5, -0.5])
def test_all_samples_drop_by_the_same(drop):
    paired = Paired((0.5,) * 20, (0.5 - drop,) * 20)
    hidden = 0.0 if drop else unseen(20)
    assert paired.interval == pytest.approx((drop - hidden, drop + hidden))
    assert paired.against(0.25) == ("worse" if drop > 0.25 else "not worse")


def test_what_so_many_samples_may_hide():
    """With 2.5 % chance none of so many is one of that share of all."""
    assert unseen(1) == pytest.approx(0.975)
    assert unseen(368) == pytest.approx(0.01, rel=0.01)
    assert all((1 - unseen(count)) ** count == pytest.approx(0.025) for count in (2, 10, 400))


@pytest.mark.parametrize(("samples", "lost"), [(2, 0.1), (10, 0.1), (20, 0.1), (100, 0.02), (400, 0.05)])
def test_too_few_samples_to_see_a_loss_never_pass_for_its_absence(samples, lost):
    rng = np.random.default_rng(7)
    sides = (rng.random((200, samples)) >= lost).astype(float).tolist()
    passed = [Paired((1.0,) * samples, tuple(side)).against(0.01) == "not worse" for side in sides]
    assert sum(passed) <= 5  # of 200; at 95 % both ways


def test_the_scores_span_what_they_may():
    tenths = Paired((0.0, 10.0, 5.0, 5.0), (0.0, 10.0, 5.0, 5.0))
    assert tenths.interval == pytest.approx((-10 * unseen(4), 10 * unseen(4)))
    assert Paired((3.0,) * 4, (3.0,) * 4).interval == (0.0, 0.0)


def test_the_same_seed_the_same_interval():
    reference, candidate = tuple(RNG.random(50)), tuple(RNG.random(50))
    first = Paired(reference, candidate, seed=1)
    assert Paired(reference, candidate, seed=1).interval == first.interval
    assert Paired(reference, candidate, seed=2).interval != first.interval


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=2, max_size=30))
def test_the_interval_lies_within_the_drops(pairs):
    reference, candidate = zip(*pairs, strict=True)
    low, high = Paired(reference, candidate).interval
    drops = np.subtract(reference, candidate)
    drop = float(drops.mean())
    assert low <= drop + 1e-9
    assert high >= drop - 1e-9
    if np.count_nonzero(drops) >= FEW:
        assert drops.min() - 1e-9 <= low <= high <= drops.max() + 1e-9


class TestAgainstATolerance:
    def test_three_ways(self):
        paired = flips(400, 20, 4)  # 4 % lost, 2 to 6 % at 95 %
        low, high = paired.interval
        assert 0.01 < low < 0.04 < high < 0.07
        assert paired.against(high) == "not worse"
        assert paired.against(high - 1e-6) == "undecided"
        assert paired.against(low) == "undecided"
        assert paired.against(low - 1e-6) == "worse"

    def test_a_gain_is_no_reason_to_be_undecided(self):
        assert flips(100, 0, 30).against(0.0) == "not worse"

    def test_the_samples_needed_are_about_enough_and_fewer_are_not(self):
        """The same shares of lost and won samples, in sets of several sizes."""
        needed = flips(200, 6, 5).samples_needed(0.02)
        assert needed > 200
        assert flips(200, 6, 5).against(0.02) == "undecided"
        more, fewer = round(1.2 * needed / 200), round(0.8 * needed / 200)
        assert flips(200 * more, 6 * more, 5 * more).against(0.02) == "not worse"
        assert flips(200 * fewer, 6 * fewer, 5 * fewer).against(0.02) == "undecided"

    def test_no_number_is_enough_when_the_drop_itself_is_too_large(self):
        paired = flips(100, 3)
        assert paired.samples_needed(0.03) is None
        assert paired.samples_needed(0.02) is None
        assert paired.samples_needed(0.031) > 100


def scored(*values, confidence=None):
    return [Score(value, confidence) for value in values]


def test_pairs_of_scores():
    paired = pair(scored(1.0, 0.5), scored(0.25, 0.0), seed=7)
    assert paired == Paired((1.0, 0.5), (0.25, 0.0), 7)


def test_calibration_error_of_both_sides():
    found = calibration_error(scored(1.0, 1.0, confidence=0.9), scored(1.0, 0.0, confidence=0.9))
    assert (found.golden, found.candidate) == (pytest.approx(0.1), pytest.approx(0.4))
    assert calibration_error(scored(1.0), scored(1.0)) is None


def test_the_document_is_json():
    paired = flips(50, 2, 1)
    against = BaselineScores("0123", Paired(paired.candidate, paired.candidate), 0.01)
    metric = MetricScores(
        "m.py:f",
        paired,
        0.5,
        calibration_error(scored(1.0, confidence=1.0), scored(0.0, confidence=1.0)),
        against,
    )
    document = json.loads(json.dumps(metric.to_dict(), allow_nan=False))
    assert document == {
        **{"name": "m.py:f", "samples": 50, "max_drop": 0.5},
        **{"golden": 49 / 50, "candidate": 48 / 50, "drop": pytest.approx(1 / 50)},
        "interval": list(paired.interval),
        "baseline": {
            **{
                "build": "0123",
                "mean": 48 / 50,
                "drop": 0.0,
                "interval": pytest.approx([-unseen(50), unseen(50)]),
            },
            **{"tolerance": 0.01, "outcome": "undecided"},
        },
        "ece": {"golden": 0.0, "candidate": 1.0, "bins": 15},
    }
    schema = json.loads(
        resources.files("trtbuild.report").joinpath("document.schema.json").read_text("utf-8")
    )
    (_, described) = schema["properties"]["metric"]["oneOf"]
    for part, properties in (
        (document, described["properties"]),
        *(
            (document[key], described["properties"][key]["oneOf"][1]["properties"])
            for key in ("baseline", "ece")
        ),
    ):
        assert set(part) == set(properties), "every key is documented"
    jsonschema.validate(document, described)
    document["baseline"]["interval"] = [0.0]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, described)
