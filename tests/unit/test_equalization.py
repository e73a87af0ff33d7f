"""By how much channels are rescaled: by what all samples make of them, and by the weights that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrators.shards import ShardSet
from calibrators.table import TableKey
from trtbuild import equalization
from trtbuild.calibrate import method_of, of_equalized, table_key
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.recipe import CalibrationSection
from trtbuild.rewrite.cut import with_outputs

BODY = "toy (float[n,3,4,4] x) => (float[n,b,c,d] y) { m = Mul(x, s) t = Add(m, s) y = Conv(t, w) }"
SAMPLES = np.random.default_rng(0).standard_normal((7, 3, 4, 4)).astype(np.float32)
SCALE = np.asarray([0.01, 1, 10], np.float32).reshape(3, 1, 1)
KERNEL = np.zeros((2, 3, 1, 1), np.float32)
KERNEL[0, :, 0, 0] = (4, 1, 1)
KERNEL[1, :, 0, 0] = (1, 1, -9)
MEMORY = 1e9
Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., ShardSet]:
    numbers = iter(range(99))

    def write(model: Model, *arrays: NDArray[Any]) -> ShardSet:
        folder = tmp_path / f"shards{next(numbers)}"
        folder.mkdir()
        for index, array in enumerate(arrays):
            np.savez(folder / f"{index}.npz", x=array)
        return ShardSet.open(folder, model.inputs)

    return write


@pytest.fixture
def model(open_toy: Callable[..., Model]) -> Model:
    opened: Model = open_toy(BODY, {"s": SCALE, "w": KERNEL})
    return opened


def factors(model: Model, shards: ShardSet, alpha: float, **how: Any) -> NDArray[np.float32]:
    found = equalization.equalize(model, shards, alpha, how.get("batch", 4), how.get("memory", MEMORY))
    return np.asarray(found.scaled["t"].factors, np.float32)


def largest(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each channel of t."""
    return np.asarray(np.abs(x * SCALE + SCALE).max(axis=(0, 2, 3)))


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 1])
def test_the_formula(model: Model, shards: Callable[..., ShardSet], alpha: float) -> None:
    samples = SAMPLES - 3  # the largest magnitudes are of negative values
    seen = factors(model, shards(model, samples), alpha)
    x, w = largest(samples), np.asarray([4, 1, 9])
    expected = w ** (1 - alpha) / x**alpha
    expected *= x.max() / (x * expected).max()
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    assert (x * seen).max() == pytest.approx(x.max()), "the range of the whole stays"


def test_all_channels_are_alike_where_the_weights_take_all(
    model: Model, shards: Callable[..., ShardSet]
) -> None:
    x = largest(SAMPLES) * factors(model, shards(model, SAMPLES), 1)
    assert x == pytest.approx([x[0]] * 3)


def test_depthwise_weights_take_all(open_toy: Callable[..., Model], shards: Callable[..., ShardSet]) -> None:
    body = BODY.replace("Conv(", "Conv<group = 3>(")
    model = open_toy(body, {"s": SCALE, "w": np.asarray([3, 1, 2], np.float32).reshape(3, 1, 1, 1)})
    given = shards(model, SAMPLES)
    x = largest(SAMPLES) * factors(model, given, 0.2)
    assert x == pytest.approx([x[0]] * 3)


def test_the_largest_of_all_readers_counts(
    open_toy: Callable[..., Model], shards: Callable[..., ShardSet]
) -> None:
    body = BODY.replace("=> (", "=> (float[n,b,c,d] z, ").replace("y = Conv", "z = Conv(t, v) y = Conv")
    other = np.zeros((1, 3, 1, 1), np.float32)
    other[0, 1] = -16
    model = open_toy(body, {"s": SCALE, "w": KERNEL, "v": other})
    seen = factors(model, shards(model, SAMPLES), 0)
    np.testing.assert_allclose(seen / seen[1], [4 / 16, 1, 9 / 16])


@pytest.mark.parametrize("how", [{"batch": 1}, {"batch": 99}, {"memory": 1.0}])
def test_cutting_the_samples_otherwise_changes_nothing(
    model: Model, shards: Callable[..., ShardSet], how: dict[str, Any]
) -> None:
    expected = factors(model, shards(model, SAMPLES), 0.5)
    cut = shards(model, SAMPLES[:2], SAMPLES[2:])
    np.testing.assert_array_equal(factors(model, cut, 0.5, **how), expected)


def test_memory_is_kept_to_in_groups(open_toy: Callable[..., Model], shards: Callable[..., ShardSet]) -> None:
    body = BODY.replace("y = Conv(t, w)", "c = Conv(t, k) r = Relu(c) y = Conv(r, k)")
    kernel = np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32)
    model = open_toy(body, {"s": SCALE, "k": kernel})
    given = shards(model, SAMPLES)
    whole, cut = (equalization.equalize(model, given, 0.5, 4, memory).scaled for memory in (MEMORY, 1.0))
    assert set(whole) == {"m", "t", "c", "r"}
    assert whole == cut


def test_dead_channels_keep_their_magnitude(
    open_toy: Callable[..., Model], shards: Callable[..., ShardSet]
) -> None:
    """Nothing is known of a channel that no sample reaches; and of weights that are zero nothing matters."""
    scale = SCALE.copy()
    scale[1] = 0
    kernel = KERNEL.copy()
    kernel[:, 1] = 1e9
    model = open_toy(BODY, {"s": scale, "w": kernel})
    seen = factors(model, shards(model, SAMPLES), 0.5)
    assert seen[1] == 1
    x = largest(SAMPLES)[[0, 2]]
    assert (x * seen[[0, 2]]).max() == pytest.approx(x.max())
    unread = KERNEL.copy()
    unread[:, 0] = 0
    model = open_toy(BODY, {"s": SCALE, "w": unread})
    seen = factors(model, shards(model, SAMPLES), 0.5)
    assert np.isfinite(seen).all()
    assert seen.min() >= 1e-4
    assert seen.max() <= 1e4


def test_what_is_zero_throughout_is_left(
    open_toy: Callable[..., Model], shards: Callable[..., ShardSet]
) -> None:
    for weights in ({"s": 0 * SCALE, "w": KERNEL}, {"s": SCALE, "w": 0 * KERNEL}):
        model = open_toy(BODY, weights)
        assert equalization.equalize(model, shards(model, SAMPLES), 0.5, 4, MEMORY).scaled == {}


def test_an_empty_activation_has_no_magnitude(
    open_toy: Callable[..., Model], shards: Callable[..., ShardSet]
) -> None:
    """As where a sample has no points."""
    text = "toy (float[n,p,3] x) => (float[n,p,2] y) { t = Mul(x, s) y = MatMul(t, w) }"
    model = open_toy(text, {"s": SCALE.reshape(3), "w": KERNEL[:, :, 0, 0].T.copy()})
    given = SAMPLES[:, :, :, 0].transpose(0, 2, 1).copy()
    expected = factors(model, shards(model, given), 0.5)
    np.testing.assert_array_equal(factors(model, shards(model, given, given[:, :0]), 0.5), expected)


def test_the_spread_has_an_end(open_toy: Callable[..., Model], shards: Callable[..., ShardSet]) -> None:
    scale = np.asarray([1e-20, 1, 1e15], np.float32).reshape(3, 1, 1)
    model = open_toy(BODY, {"s": scale, "w": KERNEL})
    changed = equalization.equalize(model, shards(model, SAMPLES), 1, 4, MEMORY)
    values = np.asarray(changed.scaled["t"].factors)
    assert values.max() == pytest.approx(1e4)
    assert values.min() >= 1e-4


def test_the_function_stays(
    model: Model, shards: Callable[..., ShardSet], run: Callable[..., Arrays]
) -> None:
    changed = equalization.equalize(model, shards(model, SAMPLES), 0.5, 4, MEMORY)
    before, after = (run(with_outputs(each.normalised, ["y"]), {"x": SAMPLES}) for each in (model, changed))
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-5, atol=1e-5 * np.abs(before["y"]).max())


def test_nan_names_the_tensor_and_the_samples(model: Model, shards: Callable[..., ShardSet]) -> None:
    """Inf * 0.01 is in every channel; a shard with Inf itself is refused before."""
    high = SAMPLES.copy()
    high[5] = 3e38
    with pytest.raises(InputError, match=r"tensor 't' has NaN or Inf in .*0:4.*cannot be equalized"):
        equalization.equalize(model, shards(model, high), 0.5, 4, MEMORY)


def test_rows_that_fill_up_a_fixed_batch_do_not_count(
    open_toy: Callable[..., Model], shards: Callable[..., ShardSet]
) -> None:
    """As in a calibration; here only in that they change nothing."""
    fixed = open_toy(BODY.replace("float[n,3", "float[4,3"), {"s": SCALE, "w": KERNEL})
    free = open_toy(BODY, {"s": SCALE, "w": KERNEL})
    np.testing.assert_allclose(
        factors(fixed, shards(fixed, SAMPLES), 0.5), factors(free, shards(free, SAMPLES), 0.5), rtol=1e-6
    )


class TestStored:
    KEY = TableKey("model", "shards", "equalize 0.5")

    @pytest.fixture
    def equalized(self, model: Model, shards: Callable[..., ShardSet]) -> Model:
        return equalization.equalize(model, shards(model, SAMPLES), 0.5, 4, MEMORY)

    def test_and_found_again(
        self, model: Model, equalized: Model, run: Callable[..., Arrays], tmp_path: Path
    ) -> None:
        path = tmp_path / "new" / "factors.json"
        assert equalization.stored(model, self.KEY, path) is None
        equalization.keep(equalized, self.KEY, path)
        found = equalization.stored(model, self.KEY, path)
        assert found is not None
        assert found.scaled == equalized.scaled
        x = {"x": SAMPLES}
        again, before = run(found.normalised, x), run(equalized.normalised, x)
        np.testing.assert_array_equal(again["y"], before["y"])
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_under_another_key_it_is_damaged(self, model: Model, equalized: Model, tmp_path: Path) -> None:
        path = tmp_path / "factors.json"
        equalization.keep(equalized, self.KEY, path)
        with pytest.raises(InputError, match=f"{path} is damaged .*delete it first"):
            equalization.stored(model, TableKey("model", "shards", "equalize 0.6"), path)

    def test_ranges_know_the_factors(
        self, model: Model, equalized: Model, shards: Callable[..., ShardSet]
    ) -> None:
        given = shards(model, SAMPLES)
        keys = [
            table_key(of, given, CalibrationSection(equalize=alpha))
            for of, alpha in (
                (model, None),
                (model, 0.5),
                (equalized, 0.5),
                (equalization.equalize(model, given, 0.6, 4, MEMORY), 0.5),
            )
        ]
        assert len(set(keys)) == 4
        assert [of_equalized(key) for key in keys] == [False, False, True, True]
        assert not of_equalized(None)
        assert method_of(model, "minmax") == "minmax"
