"""What is compared: what both sides run and show, and nothing disappears without a reason."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trtbuild.golden.scope import HIDDEN, REMOVED, scope_of
from trtbuild.targets.sides import as_given

ENGINE = SimpleNamespace(whole=True, shows="layers")
PART = SimpleNamespace(whole=False, shows="layers")
STORED = SimpleNamespace(whole=True, shows="outputs")


@pytest.fixture(scope="module")
def plugin(open_toy):
    text = """toy (float[n,4] x) => (float[n,4] y, float[n,4] z) {
        h = MatMul(x, w) p = EfficientNMS_TRT(h) y = Relu(p) z = Neg(h)
    }"""
    return open_toy(text, {"w": np.eye(4, dtype=np.float32)})


@pytest.mark.parametrize("sides", [(PART, PART), (ENGINE, PART), (PART, ENGINE)])
def test_where_onnx_runtime_is_on_a_side_it_decides(plugin, sides):
    scope = scope_of(plugin, *sides)
    assert (scope.outputs, scope.layers) == (plugin.checked_outputs, plugin.compared)
    assert (scope.outputs, scope.layers) == (("z", "h"), ("h", "z"))
    assert list(scope.not_checked) == ["EfficientNMS_TRT_p", "Relu_y"]


def test_two_engines_are_compared_whole(plugin):
    scope = scope_of(plugin, ENGINE, ENGINE)
    assert (scope.outputs, scope.layers) == (("y", "z"), ("h", "p", "y", "z"))
    assert scope.not_checked == {}


def test_bfloat16_is_hidden_from_onnx_runtime_only(open_toy):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { b = Cast<to = 16>(x) y = Cast<to = 1>(b) }")
    assert scope_of(model, PART, ENGINE).layers == ("y",)
    assert scope_of(model, PART, ENGINE).not_checked == {"b": HIDDEN}
    assert scope_of(model, ENGINE, ENGINE).layers == ("b", "y")
    assert scope_of(model, ENGINE, ENGINE).not_checked == {}


def test_what_normalising_removed_is_told_in_both_cases(open_toy):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { d = Dropout(x) y = Relu(d) }")
    assert model.removed
    for side in (PART, ENGINE):
        assert scope_of(model, side, side).not_checked == dict.fromkeys(model.removed, REMOVED)


def test_integers_are_no_layers(open_toy):
    text = "toy (float[n,4] x) => (int64[n] y) { h = Relu(x) y = ArgMax<axis = 1, keepdims = 0>(h) }"
    assert scope_of(open_toy(text), ENGINE, ENGINE).layers == ("h",)


def test_a_stored_golden_has_outputs_only(plugin):
    scope = scope_of(plugin, STORED, ENGINE)
    assert (scope.outputs, scope.layers) == (("y", "z"), None)
    assert scope.not_checked == {"layers": "the golden is a stored one, which has outputs only"}


def test_a_candidate_with_outputs_only_gets_no_excuse(plugin):
    assert scope_of(plugin, ENGINE, STORED).layers == ("h", "p", "y", "z")


def test_the_golden_in_onnx_runtime_is_no_whole_one(plugin):
    assert scope_of(plugin, as_given(plugin), ENGINE).layers == plugin.compared
