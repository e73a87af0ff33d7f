"""Rules decide: in order, the last match wins, and every node knows why it runs in what it runs in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import Pin, PrecisionSection

Open = Callable[..., Model]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CHAIN = """toy (float[N,4] x) => (float[N,4] y) {
    [m1] a = MatMul(x, w) [r1] b = Relu(a) [m2] c = MatMul(b, v) [soft] d = Softmax(c)
    [m3] e = MatMul(d, w) [shape] s = Shape(e) [m4] f = MatMul(e, u) [out] y = Reshape(f, s) }"""
BLOCK = """toy (float[1,4,8,8] x) => (float[1,4,8,8] y) {
    [c1] a = Conv<pads = [1,1,1,1]>(x, w) [relu] b = Relu(a) [c2] c = Conv<pads = [1,1,1,1]>(b, w)
    [add] y = Add(c, x) }"""


@pytest.fixture(scope="module")
def chain(open_toy: Open) -> Model:
    return open_toy(CHAIN, {"w": normal(4, 4), "v": 1e-4 * normal(4, 4), "u": normal(4, 4)})


@pytest.fixture(scope="module")
def block(open_toy: Open) -> Model:
    return open_toy(BLOCK, {"w": normal(4, 4, 3, 3)})


def resolve(model: Model, *pins: str, default: str = "int8", fallback: str = "fp32") -> PrecisionMap:
    section = PrecisionSection.model_validate({"default": default, "fallback": fallback})
    return rules.resolve(model, section, [Pin.parse(pin) for pin in pins])


def shown(precisions: PrecisionMap) -> str:
    return " ".join(node.precision for node in precisions.nodes.values())


DEFAULTS = [
    ("int8", "fp32", "int8 fp32 int8 fp32 int8 fp32 int8 fp32", 4),
    ("int8", "fp16", "int8 fp16 int8 fp16 int8 fp32 int8 fp16", 4),
    ("fp16", "fp32", "fp16 fp16 fp16 fp16 fp16 fp32 fp16 fp16", 7),
    ("fp32", "fp32", "fp32 fp32 fp32 fp32 fp32 fp32 fp32 fp32", 0),
    ("fp32", "fp16", "fp32 fp32 fp32 fp32 fp32 fp32 fp32 fp32", 0),
]


@pytest.mark.parametrize(("default", "fallback", "expected", "lowerable"), DEFAULTS)
def test_without_rules(chain: Model, default: str, fallback: str, expected: str, lowerable: int) -> None:
    found = resolve(chain, default=default, fallback=fallback)
    assert list(found.nodes) == [node.name for node in chain.graph]
    assert shown(found) == expected
    assert (found.lowerable, found.pinned, found.share, found.rules) == (lowerable, [], 0.0, ())


@pytest.mark.parametrize("default", ["int8", "fp16", "bf16", "fp32"])
@pytest.mark.parametrize("fallback", ["fp32", "fp16", "bf16"])
def test_every_node_has_a_reason(chain: Model, block: Model, default: str, fallback: str) -> None:
    for model in (chain, block):
        found = resolve(model, "glob:*", default=default)
        for precisions in (found, resolve(model, default=default, fallback=fallback)):
            assert set(precisions.nodes) == {node.name for node in model.graph}
            assert all(node.reason for node in precisions.nodes.values())


def test_reasons_say_which_rule_and_why(chain: Model) -> None:
    pin = Pin(name="m1", reason="narrow first block")
    found = rules.resolve(chain, PrecisionSection(), [pin])
    assert found.nodes["m1"].reason == "rule m1: narrow first block"
    assert found.nodes["m2"].reason == "default"
    assert found.nodes["r1"].reason == "Relu has no int8 form"
    assert found.nodes["shape"].reason == "computes no floats"
    assert resolve(chain, fallback="fp16").nodes["r1"].reason == "fallback: Relu has no int8 form"


def test_a_pin_holds_and_counts(chain: Model) -> None:
    found = resolve(chain, "m1")
    assert shown(found) == "fp32 fp32 int8 fp32 int8 fp32 int8 fp32"
    assert (found.pinned, found.budgeted, found.lowerable, found.share) == (["m1"], 1, 4, 0.25)


ORDER = [
    (["m1", "m1=int8"], "int8", []),
    (["m1=int8", "m1"], "fp32", ["m1"]),
    (["m1=fp16", "m1"], "fp32", ["m1"]),
    (["m1", "m1=fp16"], "fp16", ["m1"]),
    (["glob:m*", "m1=fp16"], "fp16", ["m1", "m2", "m3", "m4"]),
    (["m1=fp16", "glob:m*", "glob:m*=int8"], "int8", []),
]


@pytest.mark.parametrize(("pins", "precision", "pinned"), ORDER)
def test_the_last_match_wins(chain: Model, pins: list[str], precision: str, pinned: list[str]) -> None:
    found = resolve(chain, *pins)
    assert found["m1"] == precision
    assert found.pinned == pinned


@pytest.mark.parametrize(
    ("pin", "matched", "effective"),
    [
        ("m1", 1, 1),
        ("glob:*", 8, 4),
        ("type:MatMul", 4, 4),
        ("type:Softmax", 1, 0),
        ("shape=fp16", 1, 0),
        ("r1=int8", 1, 0),
        ("r1=fp16", 1, 1),
        ("m1=int8", 1, 0),
        ("pattern:softmax", 1, 0),
    ],
)
def test_effective_counts_what_changed(chain: Model, pin: str, matched: int, effective: int) -> None:
    (rule,) = resolve(chain, pin).rules
    assert (rule.rule, rule.matched, rule.effective) == (pin, matched, effective)


def test_a_rule_without_effect_does_not_cost_budget(chain: Model) -> None:
    found = resolve(chain, "type:Softmax", "shape", "r1")
    assert found.pinned == []
    rules.check_budget(found, 0.0)


def test_the_budget_is_a_share_of_what_the_default_lowers(chain: Model) -> None:
    found = resolve(chain, "m1", "r1")
    rules.check_budget(found, 0.25)
    rules.check_budget(found, None)
    with pytest.raises(InputError) as caught:
        rules.check_budget(found, 0.24)
    text = str(caught.value)
    assert "1 of 4 nodes are pinned (25.0%), over the budget of 24.0%" in text
    assert "Rules: m1 (1)" in text
    assert "r1" not in text


def test_lowering_by_a_rule_costs_no_budget(chain: Model) -> None:
    found = resolve(chain, "r1=fp16", "m1=int8")
    assert found["r1"] == "fp16"
    rules.check_budget(found, 0.0)


def test_above_the_fallback_is_a_pin_that_must_hold_but_costs_no_budget(chain: Model) -> None:
    found = resolve(chain, "soft", fallback="fp16")
    assert found["soft"] == "fp32"
    assert found.pinned == ["soft"]
    rules.check_budget(found, 0.0)


POSITIONS = [
    ("first:1", ["m1"]),
    ("last:1", ["m4"]),
    ("first:2", ["m1", "m2"]),
    ("last:3", ["m2", "m3", "m4"]),
    ("last:99", ["m1", "m2", "m3", "m4"]),
    ("weights-below:1e-2", ["m2"]),
    ("weights-below:1e9", ["m1", "m2", "m3", "m4"]),
]


@pytest.mark.parametrize(("pin", "pinned"), POSITIONS)
def test_position_and_weights_count_among_what_the_default_lowers(
    chain: Model, pin: str, pinned: list[str]
) -> None:
    found = resolve(chain, pin)
    assert found.pinned == pinned
    assert found.rules[0].matched == len(pinned)


def test_position_does_not_move_with_earlier_rules(chain: Model) -> None:
    assert resolve(chain, "last:1", "last:2").pinned == ["m3", "m4"]
    assert resolve(chain, "first:1=fp16", "first:1").pinned == ["m1"]
    assert resolve(chain, "last:1", default="fp16").pinned == ["out"]


def test_zero_weights_are_not_small_weights(open_toy: Open) -> None:
    text = "toy (float[N,4] x) => (float[N,4] y) { [m] a = MatMul(x, w) [n] y = MatMul(a, v) }"
    model = open_toy(text, {"w": np.zeros((4, 4), np.float32), "v": 1e-4 * np.ones((4, 4), np.float32)})
    assert resolve(model, "weights-below:1e-3").pinned == ["n"]


UNMATCHED = [
    ("m5", "name 'm5' matches no node; nearest: m"),
    ("glob:Soft*", "name 'glob:Soft*' matches no node; nearest: soft"),
    ("re:sof", "name 're:sof' matches no node; nearest: soft"),
    ("type:Matmul", "type 'Matmul' matches no node; nearest: MatMul"),
    ("type:Conv", "type 'Conv' matches no node"),
    ("pattern:layernorm", "pattern 'layernorm' is not in this model"),
    ("pattern:layer-norm", "unknown pattern 'layer-norm'; nearest: layernorm"),
    ("weights-below:1e-9", "weights_below = 1e-09 matches no node; the smallest is 0.000"),
]


@pytest.mark.parametrize(("pin", "expected"), UNMATCHED, ids=[pin for pin, _ in UNMATCHED])
def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest(
    chain: Model, pin: str, expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        resolve(chain, pin)
    assert expected in str(caught.value)


@pytest.mark.parametrize("pin", ["last:1", "first:3", "weights-below:1"])
def test_position_needs_something_lowered(chain: Model, pin: str) -> None:
    with pytest.raises(InputError, match="matches no"):
        resolve(chain, pin, default="fp32")


def test_a_matched_rule_without_effect_is_no_error(chain: Model) -> None:
    assert resolve(chain, "type:MatMul", default="fp32").rules[0].effective == 0


def test_fp16_of_everything_leaves_what_has_no_form(chain: Model) -> None:
    found = resolve(chain, "glob:*=fp16")
    assert shown(found) == "fp16 fp16 fp16 fp16 fp16 fp32 fp16 fp16"
    assert found.rules[0].effective == 7
    assert found.pinned == ["m1", "m2", "m3", "m4"]  # the others went down


QAT = """toy (float[2,4] x) => (float[2,4] y) <float s = {0.1}> {
    xq = QuantizeLinear(x, s) xd = DequantizeLinear(xq, s) wd = DequantizeLinear(w, s)
    [m] a = MatMul(xd, wd) [r] y = Relu(a) }"""


def test_a_model_with_its_own_qdq_is_built_as_it_is(open_toy: Open) -> None:
    model = open_toy(QAT, {"w": RNG.integers(-9, 9, (4, 4)).astype(np.int8)})
    found = resolve(model)
    assert (found["m"], found["r"]) == ("int8", "fp32")
    assert {found.nodes[name].reason for name in "mr"} == {"as the model's own Q/DQ says"}
    assert found.lowerable == 0
    assert resolve(model, "r").rules[0].effective == 0
    for pin in ("m", "type:MatMul", "r=fp16"):
        with pytest.raises(InputError, match=f"rule {pin} would change '[mr]'.*its own Q/DQ"):
            resolve(model, pin)


def test_a_residual_add_goes_with_its_conv(block: Model) -> None:
    assert shown(resolve(block)) == "int8 fp32 int8 int8"
    released = resolve(block, "c2")
    assert (released["c2"], released["add"], released["c1"]) == ("fp32", "fp32", "int8")
    assert released.nodes["add"].reason == "follows c2, which is not int8"
    assert released.pinned == ["c2"]
    assert released.lowerable == 3  # what the default would lower does not depend on the rules
    assert resolve(block, "c1")["add"] == "int8"


def test_a_released_add_takes_the_fallback(block: Model) -> None:
    assert resolve(block, "c2", fallback="fp16")["add"] == "fp16"


def test_a_pin_on_the_add_itself_counts(block: Model) -> None:
    found = resolve(block, "add", "c2")
    assert found.pinned == ["c2", "add"]
    assert found.nodes["add"].reason == "rule add"
    assert resolve(block, "add")["c2"] == "int8"


def test_an_add_cannot_be_int8_without_its_conv(block: Model) -> None:
    found = resolve(block, "c2", "add=int8")
    assert found["add"] == "fp32"


def test_unknown_types_are_called_unknown(open_toy: Open) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) {
        [m1] a = MatMul(x, w) [g] b = com.microsoft.Gelu(a) [m2] y = MatMul(b, w) }"""
    found = resolve(open_toy(text, {"w": normal(4, 4)}, domains="com.microsoft"))
    assert found["m1"] == "int8"
    assert found.nodes["g"].reason == "its type is unknown"
    assert "unknown type" in found.nodes["m2"].reason


def test_patterns_select_their_nodes(open_toy: Open) -> None:
    text = """toy (float[N,8] x) => (float[N,8] y) <float two = {2}, float eps = {1e-5}, int64[1] k = {-1}> {
        [mm] q = MatMul(x, w) [mean] a = ReduceMean<axes = [-1]>(q) [sub] b = Sub(q, a) [pow] c = Pow(b, two)
        [var] d = ReduceMean<axes = [-1]>(c) [eps] e = Add(d, eps) [std] f = Sqrt(e) [norm] g = Div(b, f)
        [end] y = Relu(g) }"""
    model = open_toy(text, {"w": normal(8, 8)})
    found = resolve(model, "pattern:layernorm", default="fp16")
    assert set(found.pinned) == {"mean", "sub", "pow", "var", "eps", "std", "norm"}
    assert found["mm"] == found["end"] == "fp16"


def test_a_default_that_lowers_nothing_is_refused(open_toy: Open) -> None:
    """Else FP32 would be built where INT8 was asked for."""
    floats = open_toy("toy (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Softmax(a) }")
    rules.check_lowers(resolve(floats, default="fp32"))
    rules.check_lowers(resolve(floats, default="fp16"))
    with pytest.raises(InputError, match=r"no node of this model can run in it .*Relu has no int8 form"):
        rules.check_lowers(resolve(floats))


def test_pins_on_everything_are_no_default_that_lowers_nothing(chain: Model) -> None:
    rules.check_lowers(resolve(chain, "glob:*"))


HALVES = """toy (float[N,4] x) => (float[N,4] y) {
    [m1] a = MatMul(x, w) [down] h = Cast<to = 10>(a) [m2] b = MatMul(h, v) [up] y = Cast<to = 1>(b) }"""


def test_what_the_model_types_as_half_is_shown_as_half(open_toy: Open) -> None:
    model = open_toy(HALVES, {"w": normal(4, 4), "v": normal(4, 4).astype(np.float16)})
    assert shown(resolve(model)) == "int8 fp16 fp16 fp32"
    with pytest.raises(InputError, match="'m2', but its tensors are fp16 in the model itself"):
        resolve(model, "m2")


def test_what_comes_after_a_plugin_stays_in_the_fallback(open_toy: Open) -> None:
    text = """toy (float[N,4] x) => (float[N,4] y) {
        [m1] a = MatMul(x, w) [plug] b = Plugin_TRT(a) [relu] c = Relu(a) [m2] y = Add(b, c) }"""
    model = open_toy(text, {"w": normal(4, 4)})
    assert resolve(model, fallback="fp16")["relu"] == "fp16"
    assert "not calibrated" in resolve(model, fallback="fp16").nodes["m2"].reason


def implicitly(model: Model, *pins: str, default: str = "int8", **types: frozenset[str]) -> PrecisionMap:
    section = PrecisionSection(default=default)  # type: ignore[arg-type]
    return rules.resolve(model, section, [Pin.parse(text) for text in pins], implicit=True, layer_types=types)


def test_an_implicit_builder_could_lower_anything_so_a_rule_that_changes_nothing_holds(chain: Model) -> None:
    assert resolve(chain, "soft", "r1").pinned == []
    found = implicitly(chain, "soft", "r1")
    assert found.pinned == ["r1", "soft"]
    assert [rule.effective for rule in found.rules] == [1, 1]
    assert found.nodes["soft"].reason == "rule soft"
    assert found.budgeted == 0


def test_what_computes_no_floats_is_never_held(chain: Model) -> None:
    assert implicitly(chain, "shape").pinned == []


def test_an_implicit_builder_does_not_go_below_the_default(chain: Model) -> None:
    assert implicitly(chain, "m1", "soft", default="fp32").pinned == []
    assert implicitly(chain, "soft=fp16", default="fp16").pinned == []
    assert implicitly(chain, "soft", default="fp16").pinned == ["soft"]


def test_without_rules_the_implicit_map_is_the_explicit_one(chain: Model) -> None:
    assert implicitly(chain) == resolve(chain)


@pytest.mark.parametrize("resolved", [resolve, implicitly])
def test_int8_takes_a_pin_back_from_a_node_without_an_int8_form(chain: Model, resolved: Callable) -> None:
    fallback = {"fallback": "fp16"} if resolved is resolve else {}
    found = resolved(chain, "soft", "soft=int8", **fallback)
    assert found.pinned == []
    assert found.nodes["soft"] == resolved(chain, **fallback).nodes["soft"]
    assert [rule.effective for rule in found.rules] == [1, 1]


TYPES = {"soft": frozenset({"SOFTMAX"}), "m1": frozenset({"MATRIX_MULTIPLY", "ELEMENTWISE"})}


def test_a_rule_by_tensorrt_type(chain: Model) -> None:
    found = implicitly(chain, "trt-type:SOFTMAX", "trt-type:ELEMENTWISE=fp16", **TYPES)
    assert {name: found[name] for name in found.pinned} == {"m1": "fp16", "soft": "fp32"}
    assert [(rule.rule, rule.matched) for rule in found.rules] == [
        ("trt-type:SOFTMAX", 1),
        ("trt-type:ELEMENTWISE=fp16", 1),
    ]


def test_a_tensorrt_type_that_is_not_there_names_the_nearest(chain: Model) -> None:
    with pytest.raises(InputError, match=r"trt_type 'SOFTMX' matches no TensorRT layer.*SOFTMAX"):
        implicitly(chain, "trt-type:SOFTMX", **TYPES)


def test_where_no_tensorrt_is_asked_its_types_match_nothing(chain: Model) -> None:
    (rule,) = resolve(chain, "trt-type:SOFTMAX").rules
    assert (rule.matched, rule.effective) == (0, 0)
