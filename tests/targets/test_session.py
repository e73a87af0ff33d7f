"""The session factory: nothing is optimised away, errors are translated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibrators.scale import fake_quantize, quantize, scale_of
from trtbuild.errors import BuildError, InputError, MachineError, TrtbuildError
from trtbuild.model import files
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.session import infer, open_session, runner


def test_every_tensor_of_a_fusible_chain_is_shown_as_written(toy: Callable) -> None:
    """Conv + BatchNormalization + Relu fuse from the lowest optimisation level on."""
    model = files.read(toy("residual"))
    tensors = ["c1", "n1", "r1", "c2", "s", "y"]
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    with runner(with_outputs(model, tensors), "shown") as active:
        shown = infer(active, {"x": x}, "a sample")
    assert list(shown) == tensors
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    gain = weights["scale"] / np.sqrt(weights["var"] + np.float32(1e-5))
    shift = weights["bias"] - weights["mean"] * gain
    normed = shown["c1"] * gain[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(shown["n1"], normed, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(shown["r1"], np.maximum(shown["n1"], 0))
    np.testing.assert_array_equal(shown["s"], shown["c2"] + shown["r1"])
    np.testing.assert_array_equal(shown["y"], np.maximum(shown["s"], 0))
    with runner(model, "plain") as active:  # showing tensors changes no number
        np.testing.assert_array_equal(infer(active, {"x": x}, "a sample")["y"], shown["y"])


def test_the_session_optimises_nothing(toy: Callable) -> None:
    import onnxruntime as ort

    session = open_session(files.read(toy("residual")))
    options = session.get_session_options()
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.get_session_config_entry("session.disable_quant_qdq") == "1"
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("amax", [4.0, 0.7, 1e-3, 300.0, 0.0])
def test_qdq_is_the_arithmetic_of_the_calibrators_bit_for_bit(amax: float, toy: Callable) -> None:
    scale = scale_of(amax)
    path = toy(
        body="q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d)",
        inputs="float[n] x",
        outputs="float[n] y",
        weights={"s": np.asarray(scale), "z": np.zeros((), np.int8)},
    )
    rng = np.random.default_rng(0)
    ties = (np.arange(-130, 131, dtype=np.float32) + np.float32(0.5)) * scale
    special = np.asarray([0.0, -0.0, np.inf, -np.inf, 1e38, -1e38, 1e-45], np.float32)
    noise = (rng.standard_normal(100_000) * max(amax, 1.0)).astype(np.float32)
    x = np.concatenate([ties, special, noise])
    with runner(with_outputs(files.read(path), ["q", "d"]), "qdq") as active:
        outputs = infer(active, {"x": x}, "a sample")
    np.testing.assert_array_equal(outputs["q"], quantize(x, scale))
    assert outputs["d"].tobytes() == fake_quantize(x, scale).tobytes()


def test_per_channel_qdq_of_a_weight_bit_for_bit(toy: Callable) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    scale = scale_of(np.abs(weight).max(axis=(1, 2, 3)))
    path = toy(
        body="q = QuantizeLinear<axis = 0>(w, s, z) d = DequantizeLinear<axis = 0>(q, s, z) y = Conv(x, d)",
        inputs="float[1,3,4,4] x",
        weights={"w": weight, "s": scale, "z": np.zeros(4, np.int8)},
    )
    with runner(with_outputs(files.read(path), ["d"]), "qdq") as active:
        shown = infer(active, {"x": np.zeros((1, 3, 4, 4), np.float32)}, "a sample")
    assert shown["d"].tobytes() == fake_quantize(weight, scale, axis=0).tobytes()


def test_a_chain_of_qdq_is_not_merged(toy: Callable) -> None:
    """A coarse pair behind a fine one: dropping or merging either would give other numbers."""
    path = toy(
        body="q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = QuantizeLinear(d, t, z)"
        "y = DequantizeLinear(e, t, z)",
        inputs="float[n] x",
        outputs="float[n] y",
        weights={
            "s": np.asarray(0.3, np.float32),
            "t": np.asarray(0.7, np.float32),
            "z": np.zeros((), np.int8),
        },
    )
    x = np.linspace(-50, 50, 5001, dtype=np.float32)
    with runner(files.read(path), "qdq") as active:
        y = infer(active, {"x": x}, "a sample")["y"]
    fine = fake_quantize(x, np.float32(0.3))
    assert y.tobytes() == fake_quantize(fine, np.float32(0.7)).tobytes()
    assert not np.array_equal(y, fake_quantize(x, np.float32(0.7)))


def test_a_model_above_protobufs_limit_gives_the_same_numbers(
    toy: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = files.read(toy("residual"))
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    with runner(model, "small") as active:
        expected = infer(active, {"x": x}, "a sample")["y"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 100)
    saved = []
    save = files.save
    monkeypatch.setattr(files, "save", lambda *given: (saved.append(given[1]), save(*given)))
    with runner(model, "big") as active:
        got = infer(active, {"x": x}, "a sample")["y"]
    assert [path.name for path in saved] == ["model.onnx"]
    assert list(scratch.iterdir()) == []
    assert got.tobytes() == expected.tobytes()
    with runner(model, "small again") as active:  # the model itself still has its weights
        assert infer(active, {"x": x}, "a sample")["y"].tobytes() == expected.tobytes()


REFUSED = {
    "i = Cast<to = 7>(x) a = Relu(x) y = Add(a, i)": r"ONNX Runtime refuses the model: .*Add",
    "y = Sparkle(x)": r"ONNX Runtime refuses the model: .*Sparkle",
    "y = Concat<axis = 9>(x, x)": r"ONNX Runtime refuses the model: .*axis",
}


@pytest.mark.parametrize("body", REFUSED)
def test_a_refused_model_is_a_build_error_of_one_line(
    body: str, toy: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    model = files.read(toy(body=body, inputs="float[2,8] x", outputs="float[a,b] y"))
    with pytest.raises(BuildError, match=REFUSED[body]) as refused:
        open_session(model)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


def test_a_failing_sample_is_named(toy: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    model = files.read(toy("two-inputs"))
    good = np.ones((4, 4), np.float32)
    with runner(model, "golden") as active:
        assert infer(active, {"x": good, "z": good}, "shard-1:0")["y"].shape == (4, 4)
        for feeds in ({"x": good[:3], "z": good}, {"x": good.astype(np.float64), "z": good}, {"x": good}):
            with pytest.raises(InputError, match=r"^golden: running shard-1:7 failed: ") as failed:
                infer(active, feeds, "shard-1:7")
            assert "\n" not in str(failed.value)
        assert infer(active, {"x": good, "z": good}, "shard-1:8")["y"].shape == (4, 4)
    assert capfd.readouterr() == ("", "")


def test_a_kernel_that_fails_says_so_once(toy: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime would also print to stderr by itself."""
    path = toy(body="y = MatMul(x, z)", inputs="float[a,b] x, float[c,d] z", outputs="float[a,d] y")
    ones = np.ones((2, 3), np.float32)
    with runner(files.read(path), "candidate") as active:
        with pytest.raises(InputError, match=r"^candidate: running shard:3 failed: .*MatMul"):
            infer(active, {"x": ones, "z": ones}, "shard:3")
        assert infer(active, {"x": ones, "z": ones.T}, "shard:4")["y"].shape == (2, 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [InputError, MachineError])
def test_an_error_of_ours_keeps_its_class_and_names_the_sample(kind: type[TrtbuildError]) -> None:
    class Refusing:
        name = "golden"

        def infer(self, feed_dict: dict, check_inputs: bool = True) -> dict:
            raise kind("out of it")

    with pytest.raises(TrtbuildError, match=r"^golden: running shard:3 failed: out of it$") as failed:
        infer(Refusing(), {}, "shard:3")
    assert type(failed.value) is kind


def test_the_polygraphy_logger_gets_its_level_back(toy: Callable) -> None:
    from polygraphy.logger import G_LOGGER

    before = G_LOGGER.module_severity.get()
    with runner(files.read(toy("gemm")), "golden"):
        pass
    assert G_LOGGER.module_severity.get() == before


def test_outputs_come_by_name_in_the_order_of_the_model(toy: Callable) -> None:
    model = files.read(toy("gemm"))
    with runner(with_outputs(model, ["y", "a", "x", "r"]), "shown") as active:
        x = np.ones((2, 8), np.float32)
        outputs = infer(active, {"x": x}, "a sample")
    assert list(outputs) == ["y", "a", "x", "r"]
    np.testing.assert_array_equal(outputs["x"], x)
