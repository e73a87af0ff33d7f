"""What the scan says of each node is what the flips measured; its JSON says the same."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tune.conftest import FEEDS, Case, rebuilt
from trtbuild.precision.rules import resolve
from trtbuild.ranges.error import typical
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.targets.session import Tensors
from trtbuild.tune.flips import Flip, Flipped
from trtbuild.tune.sensitivity import Measure, Sensitivity, quantize_one, revert_one, scan, spearman

INT8, FLOAT = PrecisionSection(), PrecisionSection(default="fp32")


def scanned(case: Case, *pins: str) -> Sensitivity:
    return scan(case.model, case.table, INT8, [Pin(name=name) for name in pins], case.reference)


def measure_of(case: Case, outputs: list[Tensors]) -> tuple[float, float | None]:
    nsr = [case.reference.nsr(index, seen) for index, seen in enumerate(outputs)]
    kl = [case.reference.kl(index, seen) for index, seen in enumerate(outputs)]
    return typical(nsr), None if kl[0] is None else statistics.fmean(value or 0.0 for value in kl)


def test_each_figure_is_of_the_model_that_it_says(case: Case) -> None:
    feeds = [feed.feeds for feed in case.reference.feeds]
    nodes = [flip.node for flip in quantize_one(case.model) if flip.part == "both"]
    pinned = nodes[0]
    found = scanned(case, pinned)
    alone = case.base(resolve(case.model, FLOAT, ()))
    recipe = case.base(resolve(case.model, INT8, [Pin(name=pinned)]))
    assert [node.node for node in found.nodes] == nodes
    assert [node.pinned for node in found.nodes] == [True] + [False] * (len(nodes) - 1)
    assert (found.all.nsr, found.all.kl) == measure_of(case, rebuilt(recipe, {}, feeds))
    for node in found.nodes:
        outputs = rebuilt(alone, {node.node: "int8"}, feeds)
        assert (node.alone.nsr, node.alone.kl) == measure_of(case, outputs)
        if node.node == pinned:
            assert node.reverted is None
            continue
        changed = resolve(case.model, INT8, [Pin(name=pinned), Pin(name=node.node)])
        left = {name: "fp32" for name in changed.nodes if changed[name] != recipe.precisions[name]}
        assert node.reverted is not None
        assert (node.reverted.nsr, node.reverted.kl) == measure_of(case, rebuilt(recipe, left, feeds))


def test_shares_are_told_apart_where_there_are_weights(make_case: Callable[[str], Case]) -> None:
    case = make_case("products")
    feeds = [feed.feeds for feed in case.reference.feeds]
    alone = case.base(resolve(case.model, FLOAT, ()))
    weighted = 0
    for node in scanned(case).nodes:
        assert (node.activations is None) == (node.weights is None)
        if node.activations is not None and node.weights is not None:
            weighted += 1
            for part, seen in (("activations", node.activations), ("weights", node.weights)):
                assert seen.nsr == measure_of(case, rebuilt(alone, {node.node: "int8"}, feeds, (part,)))[0]
    assert weighted == 3, "of five products, two of them of activations"


def test_ranks_and_agreement(make_case: Callable[[str], Case]) -> None:
    found = scanned(make_case("products"))
    order = sorted(found.nodes, key=lambda node: node.rank)
    assert [node.rank for node in order] == list(range(1, len(order) + 1))
    errors = [node.alone.nsr for node in order]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]
    for half in (0, 1):
        by_half = sorted(found.nodes, key=lambda node: node.ranks_of_halves[half])
        halves = [node.alone.halves[half] for node in by_half]
        assert halves == sorted(halves, reverse=True)
    halves = [[node.alone.halves[half] for node in found.nodes] for half in (0, 1)]
    assert found.agreement == spearman(halves[0], halves[1])
    assert found.samples == FEEDS


def test_of_a_single_feed_nothing_agrees(make_case: Callable[[str], Case]) -> None:
    case = make_case("transposed")
    found = scanned(dataclasses.replace(case, reference=case.reference.first(1)))
    assert found.agreement is None
    assert found.samples == 1
    assert all(node.alone.halves == (node.alone.nsr, node.alone.nsr) for node in found.nodes)


def test_the_score_is_a_mean(make_case: Callable[[str], Case]) -> None:
    case = make_case("transposed")
    calls = []

    def score(feed: int, outputs: Tensors) -> float:
        calls.append(feed)
        return float(outputs["y"].sum())

    found = scan(case.model, case.table, INT8, [], case.reference, score, "sum")
    feeds = [feed.feeds for feed in case.reference.feeds]
    expected = [
        float(seen["y"].sum()) for seen in rebuilt(case.base(resolve(case.model, INT8, ())), {}, feeds)
    ]
    assert found.all.score == statistics.fmean(expected)
    assert found.metric == "sum"
    assert len(calls) == FEEDS * (9 + 1 + 3)
    assert scanned(case).all.score is None


def test_json_and_back(make_case: Callable[[str], Case]) -> None:
    found = scanned(make_case("products"), "MatMul_u")
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Sensitivity.from_dict(data) == found
    assert list(data) == ["samples", "agreement", "metric", "nodes", "all"]
    assert list(data["nodes"][0]) == [
        *("node", "op_type", "rank", "ranks_of_halves", "pinned"),
        *("alone", "activations", "weights", "reverted"),
    ]
    assert list(data["all"]) == ["nsr", "kl", "halves", "score"]


def test_what_is_infinite_is_null() -> None:
    found = Measure.of(Flipped(Flip("a", ()), (math.inf, 1.0, 4.0, 1.0), (math.inf, 0, 0, 0), None))
    assert found == Measure(math.inf, None, (math.inf, 1.0), None)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data == {"nsr": None, "kl": None, "halves": [None, pytest.approx(1.0)], "score": None}
    assert Measure.from_dict(data) == found


def test_halves_are_every_other_feed() -> None:
    found = Measure.of(Flipped(Flip("a", ()), (1.0, 16.0, 4.0), (1.0, 2.0, 6.0), (0.0, 1.0, 1.0)))
    assert found.nsr == pytest.approx(4)
    assert found.halves == (pytest.approx(2), pytest.approx(16))
    assert found.kl == 3
    assert found.score == pytest.approx(2 / 3)


def test_a_residual_add_is_measured_alone_and_leaves_with_its_conv(
    make_case: Callable[[str], Case],
) -> None:
    model = make_case("a residual, and a shared weight").model
    assert [flip.nodes for flip in quantize_one(model) if "Add" in flip.node] == [("Add_s",), ("Add_f",)]
    reverted = {flip.node: flip.nodes for flip in revert_one(model, INT8, ())}
    assert reverted["Conv_c"] == ("Conv_c", "Add_s")
    assert reverted["Add_s"] == ("Add_s",)
    assert reverted[""] == ()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [10, 20, 300], 1.0),
        ([1, 2, 3], [3, 2, -math.inf], -1.0),
        ([1, 2, 2, 4], [1, 3, 2, 4], 0.9486832980505138),  # scipy.stats.spearmanr
        ([3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8], 0.19885368120992467),  # the same
        ([1, 1], [1, 2], None),
        ([1], [2], None),
        ([], [], None),
    ],
)
def test_spearman(one: list[float], other: list[float], expected: float | None) -> None:
    assert spearman(one, other) == (expected if expected is None else pytest.approx(expected))


@given(st.lists(st.floats(allow_nan=False), min_size=2, unique=True), st.randoms(use_true_random=False))
def test_without_ties_spearman_is_the_formula(numbers: list[float], random: object) -> None:
    other = list(numbers)
    random.shuffle(other)  # type: ignore[attr-defined]
    ranks = [[sorted(side).index(value) for value in side] for side in (numbers, other)]
    squares = sum((one - two) ** 2 for one, two in zip(*ranks, strict=True))
    count = len(numbers)
    expected = 1 - 6 * squares / (count * (count**2 - 1))
    assert spearman(numbers, other) == pytest.approx(expected, abs=1e-12)
