"""After correction the mean of every channel is the float model's, on the samples that it was taken on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from calibrators.shards import ShardSet
from calibrators.table import Range, RangeTable
from trtbuild import bias_correction
from trtbuild.bias_correction import corrections
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.ranges.weights import fold_weights
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.rewrite.biases import biases, with_biases
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit, ranges_needed

RNG = np.random.default_rng(5)
Toy = Callable[..., Model]
Run = Callable[..., dict[str, Any]]
Arrays = dict[str, np.ndarray]
SAMPLES = 48  # 32 for the means, 16 held back


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


STEP = 0.5


def rounded_down(*shape: int, low: float = 0.05, high: float = 0.2) -> np.ndarray:
    """Values of the same rounding error, about: multiples of STEP, and so much."""
    rng = np.random.default_rng(9)
    return (STEP * rng.integers(0, 4, shape) + rng.uniform(low, high, shape)).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    """Weights in which errors of one sign add up, and that leave the magnitude about what it was."""
    return (RNG.uniform(0.4, 2, shape) / np.prod(shape[1:])).astype(np.float32)


def table_of(model: Model) -> RangeTable:
    """The input in steps of STEP, the rest in finer ones."""
    amax = {name: 127 * STEP if name == "x" else 10.0 for name in ranges_needed(model)}
    return RangeTable({name: Range(value, "test") for name, value in amax.items()}, None, 1)


def precisions_of(model: Model, *pins: str, fallback: str = "fp32") -> PrecisionMap:
    section = PrecisionSection.model_validate({"fallback": fallback})
    return rules.resolve(model, section, [Pin.parse(pin) for pin in pins])


def quantized(model: Model, precisions: PrecisionMap) -> ir.Model:
    written = explicit(model, precisions, table_of(model), "simulated")
    fold_weights(written.graph)
    return written


def fed_to_means(shards: ShardSet) -> list[Arrays]:
    """The samples that the means are taken on, one by one."""
    return [item.feeds for i, item in enumerate(shards.drawn(shards.samples, 0).batches(1)) if i % 3 != 1]


def means(model: ir.Model, tensors: Mapping[str, int], feeds: list[Arrays], run: Run) -> Arrays:
    """tensor -> the mean of each channel. tensors: with the axis of the channels."""
    shown = [run(with_outputs(model, list(tensors), cut=True), feed) for feed in feeds]
    found = {}
    for name, axis in tensors.items():
        rows = [np.moveaxis(each[name], axis, -1).reshape(-1, each[name].shape[axis]) for each in shown]
        found[name] = np.concatenate(rows).mean(axis=0, dtype=np.float64)
    return found


def check_means(model: Model, precisions: PrecisionMap, shards: ShardSet, found: Any, run: Run) -> None:
    """That those of all corrected nodes are the float model's, and were not before."""
    written = quantized(model, precisions)
    held = {bias.tensor: bias.axis for bias in biases(model.graph) if bias.node in found}
    assert held
    feeds = fed_to_means(shards)
    expected = means(model.normalised, held, feeds, run)
    before = means(written, held, feeds, run)
    after = means(with_biases(written, found), held, feeds, run)
    for name, mean in expected.items():
        shift = np.abs(before[name] - mean).max()
        assert shift > 0.01, f"nothing to correct at {name}"
        assert np.abs(after[name] - mean).max() < 0.02 * shift, name


CONVS = """toy (float[n,4,6,6] x) => (float[n,3] y) {
    [stem] a = Conv<pads=[1,1,1,1]>(x, w1, b1) b = Relu(a)
    [deep] c = Conv<group=8, pads=[1,1,1,1]>(b, w2) d = Relu(c)
    [grouped] e = Conv<group=2>(d, w3, b3) f = Relu(e)
    [wide] g = ConvTranspose(f, w4) h = Relu(g) i = GlobalAveragePool(h) j = Flatten(i)
    [head] y = Gemm<transB=1>(j, w5) }"""
CONV_WEIGHTS = {
    **{"w1": positive(8, 4, 3, 3), "b1": normal(8) / 4, "w2": positive(8, 1, 3, 3)},
    **{"w3": positive(4, 4, 1, 1), "b3": normal(4) / 4, "w4": positive(4, 5, 2, 2), "w5": positive(3, 5)},
}
PRODUCTS = """toy (float[n,7,4] x) => (float[n,7,3] y) {
    h = MatMul(x, w1) [one] a = Add(h, b1) b = Relu(a) [alone] c = MatMul(b, w2) d = Relu(c)
    t = Transpose<perm=[0,2,1]>(d) s = MatMul(d, t) r = Softmax(s) q = MatMul(r, d)
    p = MatMul(q, w3) [two] y = Add(b3, p) }"""
PRODUCT_WEIGHTS = {
    **{"w1": normal(4, 6), "b1": normal(6), "w2": normal(6, 6) / 2},
    **{"w3": normal(6, 3), "b3": np.float32(0.5)},
}
FORKS = """toy (float[n,4,6,6] x) => (float[n,4,6,6] y) {
    [l] a = Conv<pads=[1,1,1,1]>(x, w1, b) [r] c = Conv<pads=[1,1,1,1]>(x, w2, b) s = Add(a, c) d = Relu(s)
    [m] e = Conv<pads=[1,1,1,1]>(d, w1, b) y = Add(e, d) }"""
FORK_WEIGHTS = {"w1": normal(4, 4, 3, 3) / 3, "w2": normal(4, 4, 3, 3) / 3, "b": normal(4)}
WEIGHT = 20 * positive(4, 4)
NETS = {
    "convs": (CONVS, CONV_WEIGHTS, (4, 6, 6), {"stem", "deep", "grouped", "wide", "head"}),
    "products": (PRODUCTS, PRODUCT_WEIGHTS, (7, 4), {"one", "two"}),
    "forks": (FORKS, FORK_WEIGHTS, (4, 6, 6), {"l", "r", "m"}),
}


@pytest.mark.parametrize("name", NETS)
def test_the_means_are_those_of_the_float_model(
    name: str, open_toy: Toy, write_shards: Any, run: Run, capsys: Any
) -> None:
    text, weights, shape, nodes = NETS[name]
    model = open_toy(text, weights)
    shards = write_shards(model, {"x": rounded_down(SAMPLES, *shape)})
    precisions = precisions_of(model)
    found = corrections(model, precisions, table_of(model), shards)
    assert set(found) == nodes
    assert all(array.dtype == np.float32 for array in found.values())
    check_means(model, precisions, shards, found, run)
    said = re.search(
        r"bias correction: (\d+) nodes; typical error .* on 16 held-back samples (\S+), without (\S+)\n",
        capsys.readouterr().err,
    )
    assert said
    assert int(said[1]) == len(nodes)
    assert float(said[2]) < 0.8 * float(said[3])


def test_it_is_the_same_every_time_and_for_every_batch_size(open_toy: Toy, write_shards: Any) -> None:
    model = open_toy(CONVS, CONV_WEIGHTS)
    data = rounded_down(SAMPLES, 4, 6, 6)
    whole, parts = write_shards(model, {"x": data}), write_shards(model, {"x": data[:7]}, {"x": data[7:]})
    first = corrections(model, precisions_of(model), table_of(model), whole)
    again = corrections(model, precisions_of(model), table_of(model), whole)
    for batch, shards in ((1, whole), (5, whole), (8, parts), (100, parts)):
        other = corrections(model, precisions_of(model), table_of(model), shards, batch=batch)
        assert other.keys() == first.keys()
        for name, array in other.items():
            np.testing.assert_allclose(array, first[name], atol=2e-3)
    assert all((again[name] == array).all() for name, array in first.items())


def test_pinned_nodes_stay_and_what_follows_them_is_corrected(
    open_toy: Toy, write_shards: Any, run: Run
) -> None:
    model = open_toy(CONVS, CONV_WEIGHTS)
    shards = write_shards(model, {"x": rounded_down(SAMPLES, 4, 6, 6)})
    precisions = precisions_of(model, "deep", "wide=fp16")
    found = corrections(model, precisions, table_of(model), shards)
    assert set(found) == {"stem", "grouped", "head"}
    check_means(model, precisions, shards, found, run)


def test_adds_in_half(open_toy: Toy, write_shards: Any, run: Run) -> None:
    model = open_toy(PRODUCTS, PRODUCT_WEIGHTS)
    shards = write_shards(model, {"x": rounded_down(SAMPLES, 7, 4)})
    precisions = precisions_of(model, fallback="fp16")
    found = corrections(model, precisions, table_of(model), shards)
    assert set(found) == {"one", "two"}
    check_means(model, precisions, shards, found, run)


def test_samples_of_several_shapes(open_toy: Toy, write_shards: Any, run: Run) -> None:
    """Every position counts the same, however large the sample that it is in."""
    text = CONVS.replace("n,4,6,6", "n,4,p,q")
    model = open_toy(text, CONV_WEIGHTS)
    feeds = [{"x": rounded_down(16, 4, size, 9, low=low)} for size, low in ((5, 0.0), (8, 0.1), (17, 0.18))]
    shards = write_shards(model, *feeds)
    found = corrections(model, precisions_of(model), table_of(model), shards)
    check_means(model, precisions_of(model), shards, found, run)


def test_rows_that_fill_up_a_fixed_batch_do_not_count(open_toy: Toy, write_shards: Any, run: Run) -> None:
    """Three feeds of four, of which the last has one sample, very unlike the others; one is held back."""
    fixed, free = (open_toy(CONVS.replace("n,4,6,6", f"{n},4,6,6"), CONV_WEIGHTS) for n in "4n")
    data = rounded_down(9, 4, 6, 6)
    data[8] = rounded_down(4, 6, 6, low=0.2, high=0.24)
    found = corrections(fixed, precisions_of(fixed), table_of(fixed), write_shards(fixed, {"x": data}))
    assert found
    written, held = quantized(free, precisions_of(free)), {"a": 1}
    feeds = [{"x": data[[index]]} for index in (0, 1, 2, 3, 8)]
    shift = means(written, held, feeds, run)["a"] - means(free.normalised, held, feeds, run)["a"]
    np.testing.assert_allclose(found["stem"], shift, rtol=1e-4)


def test_a_model_that_is_not_batched(open_toy: Toy, write_shards: Any, run: Run) -> None:
    model = open_toy(PRODUCTS, PRODUCT_WEIGHTS)
    feeds = [{"x": rounded_down(1 + index % 3, 7, 4)} for index in range(12)]
    shards = write_shards(model, *feeds, may_batch=False)
    found = corrections(model, precisions_of(model), table_of(model), shards)
    check_means(model, precisions_of(model), shards, found, run)


def test_bodies_and_what_cannot_be_run_are_left_alone(open_toy: Toy, write_shards: Any, run: Run) -> None:
    text = """toy (float[n,4] x) => (float[n,4] z, float[n,4] v) {
        h = MatMul(x, w1) [one] a = Add(h, b) r = Relu(a) k = ReduceMax<keepdims=0>(x) l = Greater(k, b0)
        i = If (l) <then_branch = yes () => (float[n,4] e) { f = MatMul(r, w2) e = Add(f, b) },
                    else_branch = no () => (float[n,4] g) { g = Identity(r) }>
        m = MatMul(i, w2) [two] z = Add(m, b)
        p = EfficientNMS_TRT(r) q = Cast<to=1>(p) s = MatMul(q, w2) [three] v = Add(s, b) }"""
    weights = {"w1": positive(4, 4), "w2": positive(4, 4), "b": normal(4), "b0": np.float32(1.6)}
    model = open_toy(text, weights)
    shards = write_shards(model, {"x": rounded_down(SAMPLES, 4)})
    found = corrections(model, precisions_of(model), table_of(model), shards, batch=1)
    assert set(found) == {"one", "two"}
    check_means(model, precisions_of(model), shards, found, run)


def test_nothing_is_changed_where_it_does_not_help(open_toy: Toy, write_shards: Any, capsys: Any) -> None:
    """A sample like no other, of those for the means, shifts them; the others are exact in int8."""
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { [one] y = Gemm(x, w) }", {"w": normal(4, 4)})
    data = np.tile(np.float32([1.5, 0.5, 1, -1.5]), (SAMPLES, 1))
    data[0] = 100  # clipped
    shards = write_shards(model, {"x": data})
    assert corrections(model, precisions_of(model), table_of(model), shards) == {}
    assert "bias correction: none, as it does not clearly help; typical error at" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["y = Softmax(h)", "s = Sigmoid(h) y = Flatten(s)"])
def test_a_softmax_hides_no_error(open_toy: Toy, write_shards: Any, capsys: Any, end: str) -> None:
    """Its input is what is judged: the figures are those of the model without it."""
    said = []
    for text in ("h = Gemm(x, w) y = Mul(h, one)", f"h = Gemm(x, w) {end}"):
        model = open_toy(
            f"toy (float[n,4] x) => (float[n,4] y) {{ {text} }}", {"w": WEIGHT, "one": np.float32(1)}
        )
        shards = write_shards(model, {"x": rounded_down(SAMPLES, 4)})
        assert corrections(model, precisions_of(model), table_of(model), shards)
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("text", "count", "why"),
    [
        ("[one] y = Gemm(x, w)", 1, "of 1 samples, or a single batch, none can be held back"),
        ("y = MatMul(x, w)", SAMPLES, "no int8 node has a bias"),
        ("h = Gemm(x, w) y = Cast<to=16>(h)", SAMPLES, "no output can be compared"),
    ],
)
def test_where_there_is_nothing_to_do(
    open_toy: Toy, write_shards: Any, capsys: Any, text: str, count: int, why: str
) -> None:
    outputs = "bfloat16[n,4] y" if "Cast" in text else "float[n,4] y"
    model = open_toy(f"toy (float[n,4] x) => ({outputs}) {{ {text} }}", {"w": normal(4, 4)})
    shards = write_shards(model, {"x": rounded_down(count, 4)})
    assert corrections(model, precisions_of(model), table_of(model), shards) == {}
    assert f"bias correction: none, as {why}\n" in capsys.readouterr().err


def test_two_samples_are_enough(open_toy: Toy, write_shards: Any) -> None:
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { [one] y = Gemm(x, w) }", {"w": normal(4, 4)})
    data = np.tile(np.float32([2.1, 3.2, 4, 5]), (2, 1))
    found = corrections(model, precisions_of(model), table_of(model), write_shards(model, {"x": data}))
    lost = np.float32([-0.1, -0.2, 0, 0])
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_allclose(found["one"], lost @ weight.numpy(), atol=0.05)


def test_a_channel_that_is_inf_stays_so(open_toy: Toy, write_shards: Any) -> None:
    weight = positive(4, 4)
    weight[:, 1] = 3e38
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { [one] y = Gemm(x, w) }", {"w": weight})
    data = rounded_down(SAMPLES, 4) + np.float32(3)
    found = corrections(model, precisions_of(model), table_of(model), write_shards(model, {"x": data}))
    assert (found["one"] != 0).tolist() == [True, False, True, True]
    assert np.isfinite(found["one"]).all()


def test_fewer_samples_where_they_would_not_fit(
    open_toy: Toy, write_shards: Any, monkeypatch: Any, capsys: Any
) -> None:
    """The input of a sample takes 576 bytes; what lives behind the first Conv, 8 x 6 x 6 floats, 1152."""
    model = open_toy(CONVS, CONV_WEIGHTS)
    shards = write_shards(model, {"x": rounded_down(SAMPLES, 4, 6, 6)})
    monkeypatch.setattr(bias_correction, "STATE_BYTES", 10 * 1152 + 5)
    corrections(model, precisions_of(model), table_of(model), shards)
    assert "on 5 held-back samples" in capsys.readouterr().err
    monkeypatch.setattr(bias_correction, "STATE_BYTES", 10.0)
    corrections(model, precisions_of(model), table_of(model), shards)
    assert "on 1 held-back samples" in capsys.readouterr().err
