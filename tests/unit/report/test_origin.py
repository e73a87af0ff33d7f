"""Which nodes an error is from: the split of each layer's error, followed up the graph."""

import itertools
import math

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.precision import rules
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.report.advice import Adviser
from trtbuild.report.origin import Origins

CHAIN = """toy (float[n,4] x) => (float[n,4] y) <
    float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
        a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) d = Tanh(c) y = MatMul(d, w) }"""
FORK = """toy (float[n,4] x) => (float[n,4] y) <
    float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
        a = MatMul(x, w) b = MatMul(x, w) y = JOIN(a, b) }"""
LOW = ("MatMul",)


def difference(decibel, l2=1.0):
    """`decibel` inf: equal; -inf: no signal."""
    finite = math.isfinite(decibel)
    return {"sqnr_db": decibel if finite else None, "max_abs": 0.0 if decibel == math.inf else 1.0, "l2": l2}


def row(tensor, seen, own=None, inherited=None, l2=1.0, node=""):
    figures = {"own": own, "inherited": inherited}
    known = {name: difference(value) for name, value in figures.items() if value is not None}
    return {"tensor": tensor, "node": node, "difference": difference(seen, l2), **known}


@pytest.fixture
def shares(open_toy):
    """`of(text, rows, tensor)`: operator and tensor of each node -> its share."""

    def of(text, rows, tensor, low=LOW):
        graph = open_toy(text).graph
        values = {value.name: value for node in graph for value in node.outputs}
        origins = Origins(graph, rows, lambda node: node.op_type in low)
        found = origins.shares(values[tensor], next(r for r in rows if r["tensor"] == tensor))
        return {node.outputs[0].name: share for node, share in found.items()}

    return of


INF = math.inf


def test_each_layer_keeps_what_it_adds_and_passes_on_the_rest(shares):
    rows = [row("a", 10, 10, INF), row("b", 10, INF, 10), row("c", 7, 10, 10), row("d", 7, INF, 7)]
    rows += [row("y", 6, 16.0206, 10)]  # four times less power
    found = shares(CHAIN, rows, "y")
    assert found == pytest.approx({"y": 0.2, "c": 0.4, "a": 0.4}, abs=1e-4)


def test_what_is_not_compared_is_passed_through(shares):
    rows = [row("a", 10, 10, INF), row("y", 6, 13.0103, 10)]
    assert shares(CHAIN, rows, "y") == pytest.approx({"y": 1 / 3, "a": 2 / 3}, abs=1e-4)


def test_a_float_node_leaves_its_share_to_a_lower_one_between_it_and_the_compared(shares):
    rows = [row("a", 10, 10, INF), row("d", 7, 10, 10)]
    assert shares(CHAIN, rows, "d") == pytest.approx({"c": 0.5, "a": 0.5})
    rows.insert(1, row("c", 10, INF, 10))
    assert shares(CHAIN, rows, "d") == pytest.approx({"d": 0.5, "a": 0.5})


def test_where_the_trace_is_lost_the_nearest_low_one_above_has_it(shares):
    assert shares(CHAIN, [row("d", 7, INF, 7)], "d") == {"c": 1.0}
    assert shares(CHAIN, [row("y", 7, 20, 0)], "y") == pytest.approx({"y": 1 / 101, "c": 100 / 101})
    assert shares(CHAIN, [row("b", 7, INF, 7), row("d", 7, INF, 7)], "d", low=()) == {"b": 1.0}


def test_without_figures_the_nearest_low_one_has_it(shares):
    rows = [row("a", 10), row("b", 10), row("c", 7), row("d", 7)]
    assert shares(CHAIN, rows, "d") == {"c": 1.0}
    assert shares(CHAIN, rows, "c") == {"c": 1.0}
    assert shares(CHAIN, rows, "b", low=()) == {"b": 1.0}
    assert shares(CHAIN, [row("a", 9), row("y", 7, INF, 7)], "y") == {"a": 1.0}


@pytest.mark.parametrize(("join", "a"), [("Add", 0.9), ("Sub", 0.9), ("Mul", 0.2), ("Max", 0.2)])
def test_sums_weigh_errors_by_their_power_and_others_by_the_relative_one(shares, join, a):
    rows = [row("a", 16.0206, 16, INF, l2=3), row("b", 10, 10, INF, l2=1), row("y", 9, INF, 9)]
    found = shares(FORK.replace("JOIN", join), rows, "y")
    assert found == pytest.approx({"a": a, "b": 1 - a}, abs=1e-4)


def test_shares_meet_again_where_paths_do(shares):
    """A residual connection: what comes both ways is one share, and is dealt out once."""
    text = """toy (float[n,4] x) => (float[n,4] y) <
        float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
            a = MatMul(x, w) b = MatMul(a, w) c = Relu(b) y = Add(c, a) }"""
    rows = [row("a", 10, 10, INF), row("b", 7, 10, 10), row("c", 7, INF, 7), row("y", 6, INF, 6)]
    assert shares(text, rows, "y") == pytest.approx({"a": 0.75, "b": 0.25}, abs=1e-4)


def test_bodies_hand_on_what_they_capture(shares):
    text = """toy (float[n,4] x, bool k) => (float[n,4] y) <
        float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
            a = MatMul(x, w) b = MatMul(x, w)
            y = If(k) <then_branch = t () => (float[n,4] u) { s = Exp(x) u = Add(s, a) },
                       else_branch = e () => (float[n,4] v) { v = Neg(b) }> }"""
    rows = [row("a", 10, 10, INF), row("b", 7, 7, INF), row("y", 6, INF, 6)]
    assert shares(text, rows, "y") == pytest.approx({"a": 1 / 3, "b": 2 / 3}, abs=1e-2)
    assert shares(text, [row("y", 6)], "y", low=("MatMul", "Exp")) == {"a": 1.0}, (
        "no node of a body is pinned"
    )


def test_many_residual_connections_take_no_time(shares):
    """Each doubles the paths."""
    blocks = " ".join(f"b{i} = Relu(a{i}) a{i + 1} = Add(a{i}, b{i})" for i in range(60))
    text = f"toy (float[n,4] x) => (float[n,4] a60) {{ a0 = Exp(x) {blocks} }}"
    rows = [row("a0", 10, 10, INF)]
    rows += [row(f"b{i}", 10, INF, 10) for i in range(60)] + [row(f"a{i}", 10, INF, 10) for i in range(1, 61)]
    assert shares(text, rows, "a60") == pytest.approx({"a0": 1.0})


def test_an_equal_input_has_no_share(shares):
    rows = [row("a", INF, INF, INF, l2=0), row("b", 10, 10, INF), row("y", 9, INF, 9)]
    for join in ("Add", "Mul"):
        assert shares(FORK.replace("JOIN", join), rows, "y") == {"b": 1.0}


@given(
    st.lists(st.tuples(*[st.floats(-400, 400) | st.just(INF) | st.just(-INF)] * 3), min_size=5, max_size=5)
)
def test_shares_add_up(figures):
    values = [ir.Value(name=name) for name in "xabcd"]
    nodes = [ir.node("Neg", [x], outputs=[y]) for x, y in itertools.pairwise(values)]
    graph = ir.Graph(values[:1], values[-1:], nodes=nodes)
    rows = [row(name, *figure) for name, figure in zip("xabcd", figures, strict=True)]
    found = Origins(graph, rows[1:], lambda node: node is nodes[1]).shares(values[-1], rows[-1])
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) > 0


@pytest.fixture
def advise(open_toy):
    def of(rows, tensor, *pins):
        model = open_toy(CHAIN)
        nodes = {value.name: node for node in model.graph for value in node.outputs}
        named = [{**row, "node": nodes[row["tensor"]].name} for row in rows]
        precisions = rules.resolve(model, PrecisionSection(), [Pin.parse(pin) for pin in pins])
        adviser = Adviser(model, precisions, named)
        return adviser.advise(next(row for row in named if row["tensor"] == tensor))

    return of


def test_advice_is_to_pin_what_added_most(advise):
    rows = [row("a", 10, 10, INF), row("b", 10, INF, 10), row("c", 9, 16, 10), row("d", 9, INF, 9)]
    rows += [row("y", 8, 20, 9)]
    for tensor in "bcdy":
        found = advise(rows, tensor)
        assert found.pin == '[[pin]]\nname = "MatMul_a"'
    assert found.advice == "74% of its error, the largest part: MatMul_a runs in int8 without a pin"
    assert (
        advise(rows, "a").advice == "100% of its error, the largest part: MatMul_a runs in int8 without a pin"
    )


def test_no_pin_helps_where_most_was_added_in_float(advise):
    rows = [row("a", 30, 30, INF), row("b", 5, 5, 30), row("c", 4.9, 20, 5)]
    found = advise(rows, "c")
    assert found.pin is None
    assert found.advice == "Relu_b adds 97% of its error, in fp32: no pin helps"
