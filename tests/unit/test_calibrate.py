"""Shards through the float model: which tensors, which values, which methods."""

import numpy as np
import pytest

from calibrators.shards import ShardSet
from trtbuild.calibrate import calibrate, table_key
from trtbuild.errors import InputError
from trtbuild.recipe import CalibrationSection
from trtbuild.rewrite.explicit import ranges_needed

RNG = np.random.default_rng(0)
W = {name: RNG.standard_normal((4, 4)).astype(np.float32) for name in ("w1", "w2")}
CHAIN = "toy (float[{n},4] x) => (float[{n},4] y) {{ h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }}"
X = RNG.standard_normal((5, 4)).astype(np.float32)


def chain(batch="n"):
    return CHAIN.format(n=batch)


@pytest.fixture
def shards(tmp_path):
    numbers = iter(range(99))

    def write(model, *arrays):
        folder = tmp_path / f"shards{next(numbers)}"
        folder.mkdir()
        for index, feeds in enumerate(arrays):
            np.savez(folder / f"{index}.npz", **feeds)
        return ShardSet.open(folder, model.inputs)

    return write


def ranges(table):
    return {name: entry.amax for name, entry in table.ranges.items()}


def section(method="minmax", **tensors):
    return CalibrationSection(method=method, tensors=tensors)


def test_amax_is_the_largest_magnitude(open_toy, shards):
    model = open_toy(chain(), W)
    table = calibrate(model, shards(model, {"x": X}), section(), 8)
    assert ranges(table) == pytest.approx({"x": np.abs(X).max(), "r": (X @ W["w1"]).max()}, rel=1e-6)
    assert table.samples == 5


@pytest.mark.parametrize(
    ("text", "weights", "needed"),
    [
        (chain(), W, {"x", "r"}),
        ("toy (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", {}, set()),
        ("toy (float[n,4] x) => (float[n,4] y) { y = MatMul(x, w1) }", {"w1": W["w1"]}, {"x"}),
        (
            "toy (float[n,4] x) => (float[n,4] y) { c = MatMul(w1, w2) s = Softmax(x) y = MatMul(s, c) }",
            W,
            {"s"},
        ),
        (
            """toy (float[n,4,4] x) => (float[n,4,4] y) {
                a = Relu(x) b = Sigmoid(x) y = MatMul(a, b)
            }""",
            {},
            {"a", "b"},
        ),
    ],
)
def test_the_table_covers_what_int8_reads_and_nothing_else(open_toy, shards, text, weights, needed):
    model = open_toy(text, weights)
    shape = [3] + [d or 1 for d in model.inputs[0].shape[1:]]
    table = calibrate(model, shards(model, {"x": np.ones(shape, np.float32)}), section(), 8)
    assert set(table.ranges) == set(ranges_needed(model)) == needed


@pytest.mark.parametrize("method", ["minmax", "percentile:80", "entropy", "mse"])
def test_cutting_the_samples_otherwise_changes_nothing(open_toy, shards, method):
    model = open_toy(chain(), W)
    x = np.concatenate([X, 2 * X, X - 1])
    whole = shards(model, {"x": x})
    cut = shards(model, {"x": x[:1]}, {"x": x[1:8]}, {"x": x[8:]})
    expected = ranges(calibrate(model, whole, section(method), 15))
    for given, batch in ((whole, 1), (whole, 4), (cut, 1), (cut, 3), (cut, 99)):
        assert ranges(calibrate(model, given, section(method), batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["minmax", "percentile:60", "mse"])
def test_rows_that_fill_up_a_fixed_batch_do_not_count(open_toy, shards, method):
    """5 samples in batches of 4: in the last one a single sample is there four times."""
    fixed, free = open_toy(chain(4), W), open_toy(chain(), W)
    x = X.copy()
    x[4] *= 10
    expected = ranges(calibrate(free, shards(free, {"x": x}), section(method), 5))
    assert ranges(calibrate(fixed, shards(fixed, {"x": x}), section(method), 1)) == pytest.approx(
        expected, rel=1e-5
    )


def test_samples_of_several_shapes(open_toy, shards):
    model = open_toy(
        "toy (float[n,t,4] x) => (float[n,t,4] y) { r = Relu(x) y = MatMul(r, w1) }", {"w1": W["w1"]}
    )
    given = shards(model, {"x": X[None]}, {"x": 3 * X[None, :2]})
    assert ranges(calibrate(model, given, section(), 4)) == {
        "r": pytest.approx(max(X.max(), 3 * X[:2].max()))
    }


def test_a_model_without_a_batch(open_toy, shards):
    model = open_toy(
        "toy (float[3,4] x, float k) => (float[3,4] y) { s = Mul(x, k) y = MatMul(s, w1) }", {"w1": W["w1"]}
    )
    given = shards(model, *({"x": X[:3], "k": np.float32(k)} for k in (1, 5, 2)))
    table = calibrate(model, given, section(), 8)
    assert table.samples == 3
    assert ranges(table) == {"s": pytest.approx(5 * np.abs(X[:3]).max())}


def test_the_method_of_each_tensor(open_toy, shards):
    model = open_toy(chain(), W)
    given = shards(model, {"x": np.concatenate([X, 100 * X[:1]])})
    chosen = CalibrationSection(
        method="percentile:50", tensors={"re:.*": "minmax", "glob:r*": "percentile:70", "x": "minmax"}
    )
    table = calibrate(model, given, chosen, 8)
    assert {name: entry.method for name, entry in table.ranges.items()} == {
        "x": "minmax",
        "r": "percentile:70.0",
    }
    alone = {
        method: ranges(calibrate(model, given, section(method), 8)) for method in ("minmax", "percentile:70")
    }
    assert ranges(table) == {"x": alone["minmax"]["x"], "r": alone["percentile:70"]["r"]}
    assert alone["minmax"]["r"] > 2 * alone["percentile:70"]["r"]


def test_a_pattern_that_matches_nothing(open_toy, shards):
    model = open_toy(chain(), W)
    given = shards(model, {"x": X})
    for tensors in ({"hh": "mse"}, {"h": "mse"}, {"x": "mse", "glob:q*": "mse"}):
        with pytest.raises(InputError, match="matches no calibrated tensor"):
            calibrate(model, given, CalibrationSection(tensors=tensors), 8)


def methods(table):
    return {name: entry.method for name, entry in table.ranges.items()}


def test_the_method_of_each_type(open_toy, shards):
    """x has no maker, r is made by a Relu."""
    model = open_toy(chain(), W)
    given = shards(model, {"x": np.concatenate([X, 100 * X[:1]])})
    by_type = {"Relu": "percentile:70"}
    chosen = CalibrationSection(method="mse", types=by_type)
    assert methods(calibrate(model, given, chosen, 8)) == {"x": "mse", "r": "percentile:70.0"}
    named = CalibrationSection(method="mse", types=by_type, tensors={"r": "entropy"})
    assert methods(calibrate(model, given, named, 8)) == {"x": "mse", "r": "entropy"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("Rleu", r"'Rleu' makes no calibrated tensor; nearest: Relu; those that do are Relu"),
        ("MatMul", r"'MatMul' makes no calibrated tensor.*; those that do are Relu"),
    ],
)
def test_a_type_that_makes_no_calibrated_tensor(open_toy, shards, wrong, words):
    model = open_toy(chain(), W)
    section = CalibrationSection(types={"Relu": "mse", wrong: "mse"})
    with pytest.raises(InputError, match=rf"\[calibration\.types\] {words}"):
        calibrate(model, shards(model, {"x": X}), section, 8)


def test_auto_says_what_it_chose(open_toy, shards, capsys):
    """The first channel of x is large and read by nobody; r has a range by order."""
    w1 = np.concatenate([np.zeros((1, 64)), RNG.standard_normal((63, 64))]).astype(np.float32)
    model = open_toy(
        "toy (float[n,64] x) => (float[n,4] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }",
        {"w1": w1, "w2": RNG.standard_normal((64, 4)).astype(np.float32)},
    )
    x = RNG.standard_normal((200, 64)).astype(np.float32)
    x[3, 0] = 500
    given = shards(model, {"x": x})
    section = CalibrationSection(method="auto", tensors={"r": "minmax"})
    table = calibrate(model, given, section, 8)
    assert methods(table)["r"] == "minmax"
    assert methods(table)["x"] in ("percentile:99.99", "entropy", "mse")
    assert table.ranges["x"].amax < 10
    assert "auto: 1 of 1 tensors clip" in capsys.readouterr().err
    assert table.key.method == '[["", "auto"], ["r", "minmax"]]'
    by_type = CalibrationSection(types={"Relu": "auto"})
    assert methods(calibrate(model, given, by_type, 8))["x"] == "minmax"


def test_nan_names_the_tensor_for_auto_too(open_toy, shards):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { r = Log(x) y = MatMul(r, w1) }", {"w1": W["w1"]})
    with pytest.raises(InputError, match=r"tensor 'r' has .* NaN or Inf"):
        calibrate(model, shards(model, {"x": X}), section("auto"), 8)


def test_pins_do_not_change_the_table(open_toy):
    """One table serves every set of pins: what is needed is read off the graph alone."""
    assert ranges_needed(open_toy(chain(), W)) == ("x", "r")


def test_what_comes_before_a_plugin_is_calibrated(open_toy, shards):
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y) {
            h = MatMul(x, w1) r = Relu(h) n = EfficientNMS_TRT(r) y = MatMul(n, w2)
        }""",
        W,
    )
    table = calibrate(model, shards(model, {"x": X}), section(), 8)
    assert set(table.ranges) == {"x"}
    deeper = open_toy(
        """toy (float[n,4] x) => (float[n,4] y) {
            h = MatMul(x, w1) r = Relu(h) q = MatMul(r, w2) y = EfficientNMS_TRT(q)
        }""",
        W,
    )
    table = calibrate(deeper, shards(deeper, {"x": X}), section(), 8)
    assert ranges(table) == pytest.approx({"x": np.abs(X).max(), "r": (X @ W["w1"]).max()}, rel=1e-6)


def test_nan_inside_the_model_names_the_tensor(open_toy, shards):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { r = Log(x) y = MatMul(r, w1) }", {"w1": W["w1"]})
    with pytest.raises(InputError, match=r"tensor 'r' has .* NaN or Inf"):
        calibrate(model, shards(model, {"x": X}), section(), 8)


def test_a_constant_tensor_has_the_range_zero(open_toy, shards):
    model = open_toy(
        "toy (float[n,4] x) => (float[n,4] y) { r = Relu(x) y = MatMul(r, w1) }", {"w1": W["w1"]}
    )
    assert ranges(calibrate(model, shards(model, {"x": -np.abs(X)}), section(), 8)) == {"r": 0}


def test_a_model_that_brings_its_own_ranges(open_toy, shards):
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y) <float s = {0.1}, int8 z = {0}> {
            q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w1)
        }""",
        {"w1": W["w1"]},
    )
    with pytest.raises(InputError, match="brings its own Q/DQ: its ranges are in the graph already"):
        calibrate(model, shards(model, {"x": X}), section(), 8)


def test_what_a_table_is_stored_under(open_toy, shards):
    model, other = open_toy(chain(), W), open_toy(chain(), {**W, "w2": W["w1"]})
    given = shards(model, {"x": X})
    key = table_key(model, given, section())
    assert key == table_key(model, shards(model, {"x": X}), section())
    different = [
        table_key(other, given, section()),
        table_key(model, shards(model, {"x": X + 1}), section()),
        table_key(model, shards(model, {"x": X[:4]}), section()),
        table_key(model, given, section("mse")),
        table_key(model, given, CalibrationSection(method="percentile", percentile=99)),
        table_key(model, given, CalibrationSection(method="percentile")),
        table_key(model, given, section(x="mse", r="minmax")),
        table_key(model, given, section(r="minmax", x="mse")),  # the last match wins: the order counts
    ]
    assert len({key.digest(), *(entry.digest() for entry in different)}) == 9


def test_the_key_tells_default_methods_apart_under_a_pattern_that_matches_anything(open_toy, shards):
    model = open_toy(chain(), W)
    of = shards(model, {"x": X})
    keys = {table_key(model, of, section(method, **{"re:(x)?": "mse"})) for method in ("minmax", "entropy")}
    assert len(keys) == 2


def test_an_axis_that_is_as_long_as_the_batch_by_chance_is_not_cut(open_toy, shards):
    """Four time steps, a batch fixed at four, two samples: the last steps count."""
    x = RNG.standard_normal((2, 4, 4)).astype(np.float32)
    x[:, 3] *= 50
    text = "toy (float[4,4,4] x) => (float[4,4,4] y) { t = Transpose<perm = [1,0,2]>(x) y = MatMul(t, w1) }"
    model = open_toy(text, W)
    assert ranges(calibrate(model, shards(model, {"x": x}), section(), 8))["t"] == np.abs(x).max()


def test_a_cloud_of_points_is_one_sample(open_toy, shards, tmp_path):
    """Its first axis looks like a batch; fed in eights, the sum over it would be far too small."""
    points = np.abs(RNG.standard_normal((1000, 4))).astype(np.float32)
    text = "toy (float[points,4] x) => (float[1,4] y) { s = ReduceSum(x, axis) y = MatMul(s, w1) }"
    model = open_toy(text, {**W, "axis": np.array([0])})
    guessed = shards(model, {"x": points})
    told = ShardSet.open(guessed.files[0].parent, model.inputs, may_batch=False)
    assert told.samples == 1
    assert ranges(calibrate(model, told, section(), 8))["s"] == pytest.approx(
        points.sum(axis=0).max(), rel=1e-5
    )
    assert table_key(model, told, section()) != table_key(model, guessed, section())


def test_a_sample_may_hold_an_empty_cache(open_toy, shards):
    text = """toy (float[N,4] x, float[N,past,4] p) => (float[N,4] y) {
        s = ReduceSum<keepdims = 0>(p, axis) a = Add(x, s) y = MatMul(a, w1) }"""
    model = open_toy(text, {**W, "axis": np.array([1])})
    feeds = {"x": X, "p": np.zeros((5, 0, 4), np.float32)}
    assert ranges(calibrate(model, shards(model, feeds), section(), 8)) == {"a": np.abs(X).max()}


def test_rows_that_fill_up_do_not_count_where_only_inputs_are_read(open_toy, shards):
    """Three samples in a batch fixed at two: the last one is fed twice and counted once."""
    x = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [9, 9, 9, 9]], np.float32)
    model = open_toy("toy (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w1) }", {"w1": W["w1"]})
    found = calibrate(model, shards(model, {"x": x}), section("percentile:60"), 8)
    assert ranges(found)["x"] == pytest.approx(1, rel=1e-3)  # counted twice, 9 would be half of all
