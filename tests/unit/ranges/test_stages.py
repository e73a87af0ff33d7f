"""Walking through the stages is running the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from calibrators.scale import scale_of
from calibrators.table import Range, RangeTable
from trtbuild.model.model import Model
from trtbuild.precision.rules import resolve
from trtbuild.ranges.probe import SCALE, probe
from trtbuild.ranges.stages import ON, stages
from trtbuild.ranges.whole import quantized
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit, ranges_needed

RNG = np.random.default_rng(3)
W = {name: RNG.standard_normal((4, 4)).astype(np.float32) for name in ("w1", "w2", "w3")}
X = RNG.standard_normal((3, 4)).astype(np.float32)
CHAIN = """toy (float[n,4] x) => (float[n,4] y, float[n,4] early) {
    h = MatMul(x, w1) early = Relu(h) g = MatMul(early, w2) s = Sigmoid(g) m = Mul(s, x)
    t = MatMul(m, w3) y = Add(t, h) }"""
BRANCH = """toy (float[n,4] x, bool c) => (float[n,4] y) {
    h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w3)
    i = If (c) <then_branch = yes () => (float[n,4] a) { a = Mul(r, h) },
               else_branch = no () => (float[n,4] b) { b = Identity(r) }>
    k = MatMul(i, w2) y = Add(g, k) }"""
BFLOAT = """toy (float[n,4] x) => (float[n,4] y) {
    h = MatMul(x, w1) k = Cast<to = 16>(h) r = Relu(h) g = MatMul(r, w2) l = Cast<to = 1>(k)
    a = Add(g, l) y = MatMul(a, w3) }"""
PLUGIN = """toy (float[n,4] x) => (float[n,4] y) {
    h = MatMul(x, w1) r = Relu(h) q = MatMul(r, w2) p = EfficientNMS_TRT(q) y = MatMul(p, w3) }"""
ASIDE = """toy (float[n,4] x) => (float[n,4] y, float[n,4] z) {
    h = MatMul(x, w1) p = EfficientNMS_TRT(h) r = Relu(h) q = MatMul(r, w2) s = Relu(q) y = MatMul(s, w3)
    z = Add(p, y) }"""
SKIP = """toy (float[n,2,4,4] x) => (float[n,2,4,4] y) {
    a = Conv<pads = [1,1,1,1]>(x, k) r = Relu(a) b = Conv<pads = [1,1,1,1]>(r, k) y = Add(b, r) }"""
K = {"k": RNG.standard_normal((2, 2, 3, 3)).astype(np.float32)}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chain": (CHAIN, W, {"x": X}),
    "a body that reads from outside": (BRANCH, W, {"x": X, "c": np.array(True)}),
    "bfloat16 in between": (BFLOAT, W, {"x": X}),
    "a plugin": (PLUGIN, W, {"x": X}),
    "a plugin aside": (ASIDE, W, {"x": X}),
    "a residual": (SKIP, K, {"x": RNG.standard_normal((2, 2, 4, 4)).astype(np.float32)}),
}
Run = Callable[..., dict[str, Any]]


def ranges_of(tensors: Any) -> dict[str, Range]:
    return {tensor: Range(0.5 + 0.25 * index, "") for index, tensor in enumerate(tensors)}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, open_toy: Callable[..., Model]) -> tuple[Model, dict[str, Any]]:
    text, weights, feeds = MODELS[request.param]
    return open_toy(text, weights), feeds


def scales_of(ranges: dict[str, Range]) -> dict[str, Any]:
    return {tensor + SCALE: np.asarray(scale_of(entry.amax)) for tensor, entry in ranges.items()}


def given(model: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {str(value.name): values[str(value.name)] for value in model.graph.inputs}


def shown(model: Model, run: Run, feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs that can be computed, from the explicit model."""
    ranges = ranges_of(ranges_needed(model))
    written = explicit(
        model, resolve(model, PrecisionSection(), ()), RangeTable(ranges, None, 0), "simulated"
    )
    return run(with_outputs(written, model.checked_outputs, cut=True), feeds)


@pytest.mark.parametrize("most", [1, 2, 24])
def test_every_stage_ends_in_the_outputs_of_the_explicit_model(
    case: tuple[Model, dict[str, Any]], run: Run, most: int
) -> None:
    model, feeds = case
    ranges = ranges_of(ranges_needed(model))
    expected = shown(model, run, feeds)
    state, seen, stage_count = {**feeds, **scales_of(ranges)}, set(), 0
    for stage in stages(probe(model, ranges), ranges, model.checked_outputs, model.unrunnable, most):
        assert set(stage.inputs) <= state.keys()
        state = {name: state[name] for name in stage.inputs}
        if stage.rest is not None:
            outputs = run(stage.rest, given(stage.rest, state))
            seen |= outputs.keys()
            for name, array in outputs.items():
                np.testing.assert_array_equal(array, expected[name])
        if stage.piece is not None:
            state |= run(stage.piece, given(stage.piece, state))
        stage_count += 1
    assert seen == set(expected), "the first stage has all the outputs"
    assert 1 <= stage_count <= most


def test_each_tensor_is_in_one_stage(open_toy: Callable[..., Model]) -> None:
    model = open_toy(CHAIN, W)
    tensors = [*ranges_needed(model), "h", "s", "y"]
    found = list(stages(probe(model, ranges_of(tensors)), tensors, ["y", "early"], ()))
    tensors = [tensor for stage in found for tensor in stage.tensors]
    assert sorted(tensors) == ["early", "h", "m", "s", "x"], "nobody reads y"
    assert {tensor for stage in found for tensor in stage.switched} == {"h", "s"}
    assert len(found) > 3


def test_no_cut_where_a_bfloat16_would_be_handed_over(open_toy: Callable[..., Model]) -> None:
    model = open_toy(BFLOAT, W)
    tensors = ranges_needed(model)
    found = list(stages(probe(model, ranges_of(tensors)), tensors, ["y"], ()))
    assert [stage.tensors for stage in found] == [("x", "r"), ("a",)]


def test_what_only_the_plugin_needs_is_not_run(open_toy: Callable[..., Model]) -> None:
    model = open_toy(ASIDE, W)
    ranges = ranges_of(ranges_needed(model))
    found = list(stages(probe(model, ranges), ranges, model.checked_outputs, model.unrunnable))
    assert [stage.tensors for stage in found] == [("x",), ("r",), ("s",)]
    for stage in found:
        for part in (stage.rest, stage.piece):
            assert part is None or "EfficientNMS_TRT" not in {node.op_type for node in part.graph}


def test_a_switch_quantizes_the_tensor_wherever_it_is_read(open_toy: Callable[..., Model], run: Run) -> None:
    """Against the whole model in which that one tensor more is quantized."""
    model = open_toy(CHAIN, W)
    needed = ranges_of(ranges_needed(model))
    one_more = {**needed, "h": Range(1.5, "")}
    state: dict[str, Any] = {"x": X, **scales_of(needed)}
    for stage in stages(probe(model, needed), one_more, ["y", "early"], ()):
        state = {name: state[name] for name in stage.inputs}
        if "h" in stage.switched:
            assert stage.rest is not None
            break
        if stage.piece is not None:
            state |= run(stage.piece, given(stage.piece, state))
    switch = {f"h{SCALE}": np.asarray(scale_of(1.5))}
    for on, ranges in ((True, one_more), (False, needed)):
        expected = run(quantized(model, ranges), {"x": X})
        outputs = run(stage.rest, given(stage.rest, {**state, **switch, f"h{ON}": np.asarray(on)}))
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_length_that_the_file_says_wrongly(
    toy: Callable[..., Any], open_toy: Callable[..., Model], run: Run
) -> None:
    """As exporters leave it behind that saw a single sample."""
    proto = toy(CHAIN, W)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [1, 4]))
    model = open_toy(proto)
    ranges = ranges_of(ranges_needed(model))
    state: dict[str, Any] = {"x": X, **scales_of(ranges)}
    for stage in stages(probe(model, ranges), ranges, ["y"], ()):
        if stage.piece is not None:
            state |= run(stage.piece, given(stage.piece, state))
    assert len(state["h"]) == len(X) > 1


def test_the_probe_is_the_explicit_model_to_the_bit(case: tuple[Model, dict[str, Any]], run: Run) -> None:
    model, feeds = case
    ranges = ranges_of(ranges_needed(model))
    found = probe(model, ranges)
    assert found.scales == ranges.keys()
    quantizers = [node for node in found.model.graph if node.op_type == "QuantizeLinear"]
    assert all(node.inputs[0].name in ranges for node in quantizers), "weights are quantized already"
    cut = with_outputs(found.model, model.checked_outputs, cut=True)
    for name, array in run(cut, given(cut, {**feeds, **scales_of(ranges)})).items():
        np.testing.assert_array_equal(array, shown(model, run, feeds)[name])
