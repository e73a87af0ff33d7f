"""A flip is to the bit what the model is that was written anew with it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrators.shards import ShardSet
from tests.real_models import MODELS, image_size
from tests.unit.tune.conftest import FEEDS, Case, rebuilt
from trtbuild.calibrate import calibrate
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.precision.forms import NoForm, int8_forms
from trtbuild.precision.rules import resolve
from trtbuild.progress import STOP
from trtbuild.recipe import CalibrationSection, Pin, PrecisionSection
from trtbuild.targets.session import Tensors
from trtbuild.tune import flips as flips_module
from trtbuild.tune import plan as plan_module
from trtbuild.tune.flips import Base, Flip, Flipped, flip_between, flipped, pin_flips
from trtbuild.tune.reference import Reference

INT8, FLOAT = PrecisionSection(), PrecisionSection(default="fp32")
OTHER = {"int8": "fp32", "fp32": "int8"}


def int8_nodes(model: Model) -> list[str]:
    forms = int8_forms(model.graph).items()
    return [name for name, form in forms if not isinstance(form, NoForm) and name not in model.unrunnable]


def measured(base: Base, flips: Sequence[Flip], reference: Reference) -> dict[Flip, tuple[Flipped, Any]]:
    """Each flip's figures, and the outputs on each feed."""
    seen: list[tuple[int, Tensors]] = []

    def score(feed: int, outputs: Tensors) -> float:
        seen.append((feed, outputs))
        return float(feed)

    found = {}
    for each in flipped(base, flips, reference, score):
        count = len(reference.feeds)
        assert [feed for feed, _ in seen] == list(range(count)), "in order, and no sooner than need be"
        found[each.flip] = (each, [outputs for _, outputs in seen])
        assert each.scores == tuple(range(count))
        seen.clear()
    assert found.keys() == set(flips)
    return found


def check(base: Base, flips: Sequence[Flip], reference: Reference) -> None:
    """That each flip makes what the model does that is written anew, and that it is told as far from the
    golden."""
    feeds = [feed.feeds for feed in reference.feeds]
    as_is = rebuilt(base, {}, feeds)
    for flip, (found, outputs) in measured(base, flips, reference).items():
        nodes = {name: OTHER[base.precisions[name]] for name in flip.nodes}
        parts = () if flip.part == "both" else (flip.part,)
        expected = rebuilt(base, nodes, feeds, parts)
        for index, (seen, wanted) in enumerate(zip(outputs, expected, strict=True)):
            assert tuple(seen) == base.model.checked_outputs
            for name, array in seen.items():
                np.testing.assert_array_equal(array, wanted[name], err_msg=f"{flip} {name}")
            assert found.nsr[index] == reference.nsr(index, wanted)
            assert (found.kl or [None] * FEEDS)[index] == reference.kl(index, wanted)
        changed = any(
            not np.array_equal(one[name], other[name])
            for one, other in zip(expected, as_is, strict=True)
            for name in one
        )
        assert changed == bool(flip.nodes), f"{flip} was to change something"


def parts_of(model: Model) -> list[Flip]:
    """Each node to int8, and its parts where it has both."""
    forms = int8_forms(model.graph)
    flips = []
    for name in int8_nodes(model):
        form = forms[name]
        assert not isinstance(form, NoForm)
        flips.append(Flip(name, (name,)))
        if any(edge.constant for edge in form):
            flips += [Flip(name, (name,), "activations"), Flip(name, (name,), "weights")]
    return flips


@pytest.mark.parametrize("stages", [1, 2, 12])
def test_one_node_in_int8_is_that_model(case: Case, stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "STAGES", stages)
    base = case.base(resolve(case.model, FLOAT, ()))
    check(base, parts_of(case.model), case.reference)


@pytest.mark.parametrize(("corrected", "stages"), [(False, 12), (True, 12), (True, 2)])
def test_one_node_in_float_is_that_model(
    case: Case, corrected: bool, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "STAGES", stages)
    base = case.base(resolve(case.model, INT8, ()), corrected)
    nodes = int8_nodes(case.model)
    pinned = pin_flips(case.model, INT8, (), nodes)
    assert [flip.node for flip in pinned] == nodes
    check(base, [*pinned, Flip("none", ()), Flip("all", tuple(nodes))], case.reference)


def test_a_pinned_conv_takes_its_add_along(make_case: Callable[[str], Case]) -> None:
    model = make_case("a residual, and a shared weight").model
    convs = [str(node.name) for node in model.graph if node.op_type == "Conv"]
    adds = [str(node.name) for node in model.graph if node.op_type == "Add"]
    flips = pin_flips(model, INT8, (), [*convs, *adds])
    assert [len(flip.nodes) for flip in flips] == [1, 2, 2, 1, 1, 1]
    assert flips[1].nodes == (convs[1], adds[0])
    free = pin_flips(model, INT8, [Pin(name=convs[1])], [*convs, *adds])
    assert [flip.node for flip in free] == [convs[0], *convs[2:], adds[1]], "a pin that changes nothing"


def test_from_a_mixed_base_both_ways(case: Case) -> None:
    """Every other node is pinned; a flip takes the pin off, or sets it."""
    pins = [Pin(name=name) for name in int8_nodes(case.model)[::2]]
    precisions = resolve(case.model, INT8, pins)
    nodes = int8_nodes(case.model)
    removed = [
        flip_between(str(pin), precisions, resolve(case.model, INT8, [p for p in pins if p != pin]))
        for pin in pins
    ]
    base = case.base(precisions, corrected=True)
    check(base, [*removed, *pin_flips(case.model, INT8, pins, nodes[1::2])], case.reference)


def test_neither_turns_nor_threads_nor_the_order_matter(
    make_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("products")
    base = case.base(resolve(case.model, FLOAT, ()))
    flips = parts_of(case.model)
    expected = {each.flip: each for each in flipped(base, flips, case.reference)}
    assert len(expected) == len(flips)
    monkeypatch.setattr(plan_module, "STATE_BYTES", 1)
    monkeypatch.setattr(flips_module, "cores", lambda: 1)
    seen = list(flipped(base, flips[::-1], case.reference))
    assert {each.flip: each for each in seen} == expected
    monkeypatch.setattr(flips_module, "cores", lambda: 5)
    assert {each.flip: each for each in flipped(base, flips[3:4], case.reference)}[flips[3]] == expected[
        flips[3]
    ]


def test_feeds_take_turns_where_they_would_take_too_much(
    make_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("products")
    flips = [Flip(name, (name,)) for name in int8_nodes(case.model)]
    plan = plan_module.Plan(case.base(resolve(case.model, FLOAT, ())), flips, case.reference, False)
    assert [list(turn) for turn in plan.turns()] == [[0, 1, 2, 3]]
    # most at the product of q and k: both, x, which is read again, and the outputs and what is judged
    largest = 4 * (2 * 3 * 6 + 3 * 8 + 3 * 3 + 2 * 3 * 5) + 4 * 3 * 3  # and the Softmax, where the stage ends
    monkeypatch.setattr(plan_module, "STATE_BYTES", 2 * largest * 3)
    assert [list(turn) for turn in plan.turns()] == [[0, 1, 2], [3]]
    monkeypatch.setattr(plan_module, "STATE_BYTES", 2 * largest * 3 - 1)
    assert [list(turn) for turn in plan.turns()] == [[0, 1], [2, 3]]
    monkeypatch.setattr(plan_module, "STATE_BYTES", 1)
    assert [list(turn) for turn in plan.turns()] == [[0], [1], [2], [3]]


def test_an_output_that_is_not_finite_is_an_infinite_error(
    open_toy: Callable[..., Model], write_shards: Callable[..., ShardSet], make_case: Callable[[str], Case]
) -> None:
    """What int8 rounds to zero is divided by."""
    text = "toy (float[n,2] x) => (float[n,2] y) { h = MatMul(x, w) y = Reciprocal(h) }"
    model = open_toy(text, {"w": np.asarray([[1, 0], [0, 1]], np.float32)})
    feeds = [{"x": np.asarray([[1e-4, 1]], np.float32)}, {"x": np.ones((1, 2), np.float32)}]
    reference = Reference.of(model, write_shards(model, *feeds), {"y": -1})
    table = make_case("products").table
    table = type(table)({"x": next(iter(table.ranges.values()))}, None, 1)
    base = Base(model, resolve(model, FLOAT, ()), table, {})
    (found,) = flipped(base, [Flip("h", tuple(int8_nodes(model)))], reference)
    assert math.isinf(found.nsr[0])
    assert math.isfinite(found.nsr[1])
    assert found.kl is not None
    assert math.isinf(found.kl[0])
    assert found.scores is None


@pytest.mark.parametrize("fallback", ["fp16", "bf16"])
def test_with_halves_as_a_fallback(make_case: Callable[[str], Case], fallback: str) -> None:
    """What leaves int8 is float32, as a pin says: exact where nothing follows it into the fallback."""
    case = make_case("a residual, and a shared weight")
    section = PrecisionSection.model_validate({"fallback": fallback})
    base = case.base(resolve(case.model, section, ()), corrected=True)
    flips = pin_flips(case.model, section, (), int8_nodes(case.model))
    alone = [flip for flip in flips if len(flip.nodes) == 1]
    assert 0 < len(alone) < len(flips)
    check(base, alone, case.reference)
    assert all(np.isfinite(each.nsr).all() for each in flipped(base, flips, case.reference))


def test_a_stop_ends_it_and_the_threads(make_case: Callable[[str], Case]) -> None:
    case = make_case("products")
    base = case.base(resolve(case.model, FLOAT, ()))
    threads = threading.active_count()
    found = flipped(base, parts_of(case.model), case.reference)
    next(found)
    STOP.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(found)
    finally:
        STOP.clear()
    assert threading.active_count() == threads


def test_an_interrupt_while_a_score_is_taken_passes(make_case: Callable[[str], Case]) -> None:
    case = make_case("products")
    base = case.base(resolve(case.model, FLOAT, ()))
    threads, calls = threading.active_count(), []

    def score(feed: int, outputs: Tensors) -> float:
        assert threading.current_thread() is threading.main_thread()
        calls.append(feed)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(flipped(base, parts_of(case.model), case.reference, score))
    assert len(calls) == 1
    assert threading.active_count() == threads


def test_a_score_sees_the_outputs_alone(make_case: Callable[[str], Case]) -> None:
    """A metric that takes the only output apart may not be handed what lies in front of it."""
    case = make_case("products")
    assert case.reference.judged == ("u", "w")
    found = measured(case.base(resolve(case.model, INT8, ())), [Flip("as it is", ())], case.reference)
    for _, outputs in found.values():
        assert [list(seen) for seen in outputs] == [["p", "w"]] * FEEDS


def test_no_flips_take_no_time(make_case: Callable[[str], Case]) -> None:
    case = make_case("products")
    assert list(flipped(case.base(resolve(case.model, INT8, ())), [], case.reference)) == []


def test_only_the_way_to_int8_has_parts(make_case: Callable[[str], Case]) -> None:
    case = make_case("products")
    name = int8_nodes(case.model)[0]
    base = case.base(resolve(case.model, INT8, ()))
    with pytest.raises(ValueError, match="only the way to int8 has parts"):
        list(flipped(base, [Flip(name, (name,), "weights")], case.reference))


def test_a_sample_that_cannot_be_run_is_named(
    open_toy: Callable[..., Model], write_shards: Callable[..., ShardSet], make_case: Callable[[str], Case]
) -> None:
    text = """toy (float[n,4] x, int64[n,1] i) => (float[n,1] y) {
        h = MatMul(x, w) y = GatherElements<axis = 1>(h, i) }"""
    model = open_toy(text, {"w": np.ones((4, 4), np.float32)})
    good = {"x": np.ones((1, 4), np.float32), "i": np.zeros((1, 1), np.int64)}
    reference = Reference.of(model, write_shards(model, good), {})
    reference.feeds[0].feeds["i"][:] = 9
    table = make_case("products").table
    base = Base(model, resolve(model, FLOAT, ()), type(table)({"x": table.ranges["x"]}, None, 1), {})
    with pytest.raises(InputError, match=r"running 000:0 failed: .*Out of range"):
        list(flipped(base, [Flip("h", tuple(int8_nodes(model)))], reference))


SMALL = [path for path in MODELS if path.values[0] is not None and "cls" in path.values[0].name]


@pytest.mark.parametrize("path", SMALL or MODELS[:1])
def test_real_models_to_the_bit(path: Path, tmp_path: Path) -> None:
    model = Model.open(path)
    (spec,) = model.inputs
    size = (fixed or free for fixed, free in zip(spec.shape[2:], image_size(path), strict=True))
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, *size)).astype(spec.dtype)
    np.savez(tmp_path / "samples.npz", **{spec.name: x})
    shards = ShardSet.open(tmp_path, model.inputs)
    table = calibrate(model, shards, CalibrationSection(method="minmax"), 2)
    reference = Reference.of(model, shards, dict.fromkeys(model.checked_outputs, -1))
    case = Case(model, table, reference)
    nodes = int8_nodes(model)
    assert len(nodes) > 20
    check(case.base(resolve(model, FLOAT, ())), parts_of(model)[::25], reference)
    chosen = nodes[2::15]
    check(case.base(resolve(model, INT8, ()), corrected=True), pin_flips(model, INT8, (), chosen), reference)
