"""Toy models in which each kind of int8 node is, samples for them, and the long way to measure a flip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from calibrators.shards import ShardSet
from calibrators.table import Range, RangeTable
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.ranges.judged import judged_outputs
from trtbuild.ranges.weights import fold_weights
from trtbuild.rewrite.biases import biases
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit, ranges_needed
from trtbuild.targets.session import Tensors, open_session
from trtbuild.tune.flips import Base
from trtbuild.tune.reference import Reference

RNG = np.random.default_rng(11)
FEEDS = 4
Toy = Callable[..., Model]


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


TEXTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a residual, and a shared weight": (
        """toy (float[n,4,6,6] x) => (float[n,4,6,6] y) {
        a = Conv<pads = [1,1,1,1]>(x, k, b) r = Relu(a) c = Conv<pads = [1,1,1,1]>(r, k) s = Add(c, r)
        t = Relu(s) d = Conv(t, j) e = Conv<pads = [1,1,1,1]>(t, l) f = Add(e, d) y = Relu(f) }""",
        {"k": normal(4, 4, 3, 3), "b": normal(4), "j": normal(4, 4, 1, 1), "l": normal(4, 4, 3, 3)},
        {"x": normal(4, 6, 6)},
    ),
    "products": (
        """toy (float[n,3,8] x) => (float[n,3,5] p, float[n,3,3] w) {
        q0 = MatMul(x, wq) q = Add(q0, bq) k = MatMul(x, wk) t = Transpose<perm = [0,2,1]>(k)
        w = MatMul(q, t) g = Softmax<axis = -1>(w) v = MatMul(g, x) u = MatMul(v, wu)
        p = Softmax<axis = -1>(u) }""",
        {"wq": normal(8, 6), "bq": normal(6), "wk": normal(8, 6), "wu": normal(8, 5)},
        {"x": normal(3, 8)},
    ),
    "transposed": (
        """toy (float[n,3,4,4] x) => (float[n,6] y, float[n,2,8,8] z) {
        c = ConvTranspose<strides = [2,2]>(x, k) z = Relu(c) f = Flatten(z)
        g = Gemm<transB = 1>(f, w1, b1) r = Relu(g) y = Gemm<beta = 0.5, alpha = 2.0>(r, w2) }""",
        {"k": normal(3, 2, 2, 2), "w1": normal(7, 128), "b1": normal(7), "w2": normal(7, 6)},
        {"x": normal(3, 4, 4)},
    ),
    "a body that reads from outside": (
        """toy (float[n,4] x) => (float[n,4] y, float[n,4] early) {
        early = Relu(x) h = MatMul(early, w1) r = Relu(h) g = MatMul(r, w2) m = ReduceMax<keepdims = 0>(x)
        c = Less(m, m)
        i = If (c) <then_branch = yes () => (float[n,4] a) { a = Mul(r, h) },
                   else_branch = no () => (float[n,4] b) { b = Add(r, h) }>
        k = MatMul(i, w3) y = Add(g, k) }""",
        {"w1": normal(4, 4), "w2": normal(4, 4), "w3": normal(4, 4)},
        {"x": normal(4)},
    ),
    "a bfloat16, which nobody hands over": (
        """toy (float[n,4] x) => (float[n,4] y) {
        h = MatMul(x, w1) k = Cast<to = 16>(h) r = Relu(h) g = MatMul(r, w2) l = Cast<to = 1>(k)
        a = Add(g, l) y = MatMul(a, w3) }""",
        {"w1": normal(4, 4), "w2": normal(4, 4), "w3": normal(4, 4)},
        {"x": normal(4)},
    ),
    "a plugin aside": (
        """toy (float[n,4] x) => (float[n,4] y, float[n,4] z) {
        h = MatMul(x, w1) p = EfficientNMS_TRT(h) r = Relu(h) q = MatMul(r, w2) s = Relu(q)
        y = MatMul(s, w3) c = Cast<to = 1>(p) z = MatMul(c, w1) }""",
        {"w1": normal(4, 4), "w2": normal(4, 4), "w3": normal(4, 4)},
        {"x": normal(4)},
    ),
}


@dataclass(frozen=True)
class Case:
    """A model, ranges that clip and round, and its float outputs on the samples."""

    model: Model
    table: RangeTable
    reference: Reference

    def base(self, precisions: PrecisionMap, corrected: bool = False) -> Base:
        """corrected: with something taken off every bias of an int8 node."""
        found = {
            bias.node: np.linspace(-0.5, 0.7, bias.size, dtype=np.float32)
            for bias in biases(self.model.graph)
            if corrected and precisions[bias.product] == "int8"
        }
        return Base(self.model, precisions, self.table, found)


@pytest.fixture(params=TEXTS)
def case(request: pytest.FixtureRequest, make_case: Callable[[str], Case]) -> Case:
    return make_case(request.param)


@pytest.fixture
def make_case(open_toy: Toy, write_shards: Callable[..., ShardSet]) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        text, weights, like = TEXTS[name]
        model = open_toy(text, weights)
        rng = np.random.default_rng(2)
        feeds = [
            {key: rng.standard_normal((1, *array.shape)).astype(np.float32) for key, array in like.items()}
            for _ in range(FEEDS)
        ]
        amax = {tensor: 1.5 + 0.25 * index for index, tensor in enumerate(ranges_needed(model))}
        table = RangeTable({tensor: Range(value, "test") for tensor, value in amax.items()}, None, 1)
        axes = {output: -1 for output in model.checked_outputs if output in ("p", "y")}
        return Case(model, table, Reference.of(model, write_shards(model, *feeds), axes))

    return make


def rebuilt(base: Base, nodes: Mapping[str, str], feeds: Any, parts: tuple[str, ...] = ()) -> list[Tensors]:
    """The outputs, and what is judged, of the explicit model written anew, with the precisions `nodes` in
    place of the base's, and the corrections of those alone that are int8 then. parts: "activations" or
    "weights" alone of `nodes`."""
    entries = base.precisions.nodes
    changed = {name: replace(entries[name], precision=precision) for name, precision in nodes.items()}
    precisions = replace(base.precisions, nodes={**entries, **changed})
    products = {bias.node: bias.product for bias in biases(base.model.graph)}
    kept = {holder: data for holder, data in base.biases.items() if precisions[products[holder]] == "int8"}
    written = explicit(base.model, precisions, base.table, "simulated", kept)
    originals = {value.name: value for value in written.graph.initializers.values()}
    for node in written.graph if parts else ():
        for index, value in enumerate(node.inputs):
            pair = value.producer() if value is not None and node.name in nodes else None
            if pair is None or pair.op_type != "DequantizeLinear":
                continue
            before = pair.inputs[0].producer().inputs[0]  # type: ignore[union-attr]
            kind = "weights" if before.name in originals else "activations"  # type: ignore[union-attr]
            if kind not in parts:
                node.replace_input_with(index, before)
    fold_weights(written.graph)
    names = list(dict.fromkeys([*base.model.checked_outputs, *judged_outputs(base.model)]))
    session = open_session(with_outputs(written, names, cut=True), threads=1)
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
