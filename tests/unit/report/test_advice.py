"""Which pin would address a layer."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild import recipe
from trtbuild.names import matcher
from trtbuild.precision import rules
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.report.advice import Adviser, pin_of
from trtbuild.report.rank import problem, sqnr, worst_first

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NETWORK = """toy (float[n,4] x) => (float[n,4] y) <
    float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
        a = Exp(x) b = MatMul(a, w) c = Relu(b) d = MatMul(c, w) e = Tanh(d) y = Sigmoid(e) }"""


def row(node, **figures):
    """Of the only output of a node, which is called as the node, less its operator's name."""
    return {"node": node, "tensor": node.rpartition("_")[2], **figures}


@pytest.fixture
def adviser(open_toy):
    def make(*pins, **section):
        model = open_toy(NETWORK)
        return Adviser(model, rules.resolve(model, PrecisionSection(**section), [Pin.parse(p) for p in pins]))

    return make


@pytest.fixture
def nodes(open_toy):
    return {node.outputs[0].name: node.name for node in open_toy(NETWORK).graph}


def test_a_node_that_runs_low_is_to_blame(adviser, nodes):
    found = adviser().advise(row(nodes["b"]))
    assert found.pin == f'[[pin]]\nname = "{nodes["b"]}"'
    assert found.advice == f"{nodes['b']} runs in int8 without a pin"


@pytest.mark.parametrize(("layer", "blamed"), [("c", "b"), ("e", "d"), ("y", "d")])
def test_a_float_node_has_its_error_from_the_nearest_above(adviser, nodes, layer, blamed):
    found = adviser().advise(row(nodes[layer]))
    assert found.pin == f'[[pin]]\nname = "{nodes[blamed]}"'
    assert found.advice == f"fp32 itself: {nodes[blamed]} runs in int8 without a pin"


def test_a_pinned_node_is_not_blamed_again(adviser, nodes):
    found = adviser(nodes["d"]).advise(row(nodes["y"]))
    assert found.pin == f'[[pin]]\nname = "{nodes["b"]}"'


def test_a_pin_to_a_half_can_be_raised(adviser, nodes):
    found = adviser(f"{nodes['b']}=fp16").advise(row(nodes["b"]))
    assert found.pin == f'[[pin]]\nname = "{nodes["b"]}"'
    assert found.advice == f"{nodes['b']} pinned to fp16 only"


def test_where_nothing_is_low_no_pin_helps(adviser, nodes):
    found = adviser().advise(row(nodes["a"]))
    assert (found.pin, found.advice) == (None, "fp32, and nothing above it is lower: no pin helps")
    assert adviser().advise(row("")).pin is None


@pytest.mark.parametrize(
    ("own", "inherited", "blamed"), [(30.0, 10.0, "b"), (10.0, 30.0, "d"), (None, 10.0, "b")]
)
def test_own_and_inherited_error_decide_where_they_are_known(adviser, nodes, own, inherited, blamed):
    """`own` None: equal on golden inputs."""
    difference = {"own": {"sqnr_db": own, "max_abs": 0.0}, "inherited": {"sqnr_db": inherited, "max_abs": 1}}
    found = adviser().advise(row(nodes["d"], **difference))
    assert found.pin == f'[[pin]]\nname = "{nodes[blamed]}"'


def test_a_model_with_its_own_qdq_takes_no_pins(open_toy):
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y) <float s = {0.1}, int8 z = {0}> {
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""
    )
    adviser = Adviser(model, rules.resolve(model, PrecisionSection(), []))
    (relu,) = (node.name for node in model.graph if node.op_type == "Relu")
    assert adviser.advise(row(relu)).pin is None


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.sampled_from(["", "re:", "glob:"]))
def test_a_pin_names_exactly_its_node(name, prefix):
    """Whatever the name: TOML's quoting, and names that look like patterns."""
    node = prefix + name
    table = tomllib.loads('[model]\npath = "m.onnx"\n' + pin_of(node))
    (pin,) = recipe.parse(table, "test").pin
    assert matcher(pin.name)(node)
    assert not matcher(pin.name)(f"{node}.")
    assert not matcher(pin.name)(node[:-1])


FINE = {"sqnr_db": 30.0, "max_abs": 1.0, "nonfinite_unmatched": 0}


def test_ranks():
    assert sqnr(FINE) == 30
    assert sqnr({"sqnr_db": None, "max_abs": 0.0}) == math.inf
    assert sqnr({"sqnr_db": None, "max_abs": 0.5}) == -math.inf
    given = {
        "fine": FINE,
        "equal": {"sqnr_db": None, "max_abs": 0.0, "nonfinite_unmatched": 0},
        "missing": None,
        "bad": {**FINE, "sqnr_db": 3.0},
        "nan": {"sqnr_db": None, "max_abs": 0.0, "nonfinite_unmatched": 2},
        "dead": {**FINE, "sqnr_db": None},
    }
    rows = [{"tensor": name, "difference": found, "problem": "gone"} for name, found in given.items()]
    assert [row["tensor"] for row in worst_first(rows)] == ["nan", "dead", "bad", "fine"]
    assert {row["tensor"]: problem(row) for row in rows if problem(row)} == {
        "missing": "not compared: gone",
        "nan": "2 NaN or Inf that the golden lacks",
    }
