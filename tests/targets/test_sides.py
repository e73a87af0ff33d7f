"""The sides of a golden diff: what is exposed, in which dtypes, and that results last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.targets.engine_double import Engines
from trtbuild.errors import InputError
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.recipe import InputSection
from trtbuild.targets.base import Side
from trtbuild.targets.session import infer, per_sample
from trtbuild.targets.sides import OnnxRuntimeSide, as_given

RNG = np.random.default_rng(0)
X = {"x": RNG.standard_normal((2, 8)).astype(np.float32)}


@pytest.fixture
def gemm(toy: Callable) -> Model:
    return Model.open(toy("gemm"))


@pytest.fixture
def chain(toy: Callable) -> Callable[..., Model]:
    """A model of the given body over x: float[n,8]."""

    def make(body: str, inputs: str = "float[n,8] x", outputs: str = "float[a,b] y", **fields: Any) -> Model:
        return Model.open(toy(body=body, inputs=inputs, outputs=outputs, **fields))

    return make


def shown(side: Side, tensors: list[str], feeds: dict[str, Any], showing: bool = True) -> dict[str, Any]:
    with (side.showing if showing else side.shipped)(tensors) as active:
        return infer(active, feeds, "a sample")


class TestOnnxRuntime:
    def test_what_is_asked_for_is_shown_in_that_order(self, gemm: Model) -> None:
        side = OnnxRuntimeSide("candidate", gemm.normalised)
        assert (side.outputs, side.whole, side.shows, side.layer_bytes) == (("y",), False, "layers", None)
        assert list(shown(side, ["y", "a", "x"], X)) == ["y", "a", "x"]
        assert list(shown(side, ["y"], X, showing=False)) == ["y"]
        assert list(shown(side, ["y", "gone"], X)) == ["y"]

    def test_the_golden_is_the_file_and_not_the_normalised_model(self, chain: Callable) -> None:
        model = chain("h = Dropout(x) y = Relu(h)")
        value = next(v for node in model.graph for v in node.outputs if v.name == "y")
        value.producer().op_type = "Neg"
        golden = as_given(model)
        assert golden.name == "golden"
        np.testing.assert_array_equal(shown(golden, ["y"], X)["y"], np.maximum(X["x"], 0))

    def test_a_golden_runs_up_to_what_onnx_runtime_cannot_run(self, chain: Callable) -> None:
        model = chain("h = MatMul(x, w) y = EfficientNMS_TRT(h)", weights={"w": (8, 8)})
        assert list(shown(as_given(model), ["h"], X)) == ["h"]
        assert as_given(model).outputs == ("y",)

    def test_nodes_of_one_name_do_not_matter(self, chain: Callable) -> None:
        model = chain("[same] h = Relu(x) [same] y = Neg(h)")
        assert list(shown(as_given(model), ["h", "y"], X)) == ["h", "y"]
        assert [node.name for node in files.read(model.path).graph] == ["same", "same"]


def engine(model: Model, **options: Any) -> Side:
    manners = {key: options.pop(key) for key in ("profiles", "unfused", "lost") if key in options}
    return Engines(**manners).side("candidate", model, model.normalised, **options)


class TestEngine:
    def test_the_numbers_and_the_order_asked_for(self, gemm: Model) -> None:
        expected = shown(as_given(gemm), ["y", "a", "r"], X)
        found = shown(engine(gemm), ["y", "a", "r"], X)
        assert list(found) == ["y", "a", "r"]
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5)

    def test_what_ships_exposes_nothing_more(self, gemm: Model) -> None:
        engines = Engines()
        side = engines.side("candidate", gemm, gemm.normalised)
        assert list(shown(side, ["y", "a"], X, showing=False)) == ["y"]
        shown(side, ["a"], X)
        assert engines.opened == [("y",), ("y", "a")]
        assert engines.active == 0

    def test_results_last_when_the_engine_runs_again_and_is_closed(self, gemm: Model) -> None:
        with engine(gemm).showing(["y", "a"]) as active:
            first = infer(active, X, "one")
            kept = {name: array.copy() for name, array in first.items()}
            infer(active, {"x": X["x"] + 1}, "two")
        for name, array in first.items():
            np.testing.assert_array_equal(array, kept[name])
        assert per_sample_names(engine(gemm)) == {"y"}

    def test_outputs_in_the_order_of_the_model(self, chain: Callable) -> None:
        text = {"outputs": "float[n,8] a, float[n,8] c, float[n,8] b"}
        model = chain("a = Relu(x) c = Neg(x) b = Abs(x)", **text)
        engines = Engines()
        side = engines.side("candidate", model, model.normalised)
        assert side.outputs == ("a", "c", "b")
        assert side.outputs == ("a", "c", "b")
        assert engines.opened == [("c", "b", "a")]  # opened once, in an order of TensorRT's own

    def test_outputs_are_those_that_the_engine_has(self, chain: Callable) -> None:
        model = chain("a = Relu(x) b = Neg(x)", outputs="float[n,8] a, float[n,8] b")
        more = model.normalised.clone()
        more.graph.outputs.append(more.graph.inputs[0])
        assert Engines().side("candidate", model, more).outputs == ("a", "b", "x")
        assert Engines(lost=["a"]).side("candidate", model, more).outputs == ("b", "x")

    def test_tensors_that_it_does_not_have_are_left_out(self, gemm: Model) -> None:
        assert list(shown(engine(gemm, lost=["r"]), ["y", "r", "nowhere"], X)) == ["y"]

    @pytest.mark.parametrize("unfused", [[], ["h::raw", "r::raw"]])
    def test_what_only_halves_read_is_found_under_the_name_that_it_has(
        self, chain: Callable, unfused: list[str]
    ) -> None:
        """A typed explicit model in which h and r exist in float16 alone; y is an output, and never raw."""
        model = chain("h = Relu(x) r = Abs(h) y = Neg(r)")
        typed = chain(
            "c = Cast<to = 10>(x) h__raw = Relu(c) r__raw = Abs(h__raw) y__raw = Neg(r__raw)",
            outputs="float16[n,8] y__raw",
        ).normalised.clone()
        for node in typed.graph:
            for value in node.outputs:
                value.name = str(value.name).replace("__", "::")
        debug = {"debug": lambda: files.serialize(typed)} if unfused else {}
        side = Engines(unfused=unfused).side("candidate", model, typed, **debug)
        found = shown(side, ["h", "r", "y"], X)
        assert list(found) == ["h", "r"]
        assert found["r"].dtype == np.float32
        np.testing.assert_array_equal(found["r"], np.abs(found["h"]))
        np.testing.assert_allclose(found["h"], np.maximum(X["x"], 0), rtol=1e-3)

    def test_an_engine_that_takes_an_input_of_its_own(self, gemm: Model, chain: Callable) -> None:
        other = chain("y = Add(x, z)", inputs="float[n,8] x, float[n,8] z")
        side = Engines().side("candidate", gemm, other.normalised)
        with pytest.raises(InputError, match="the engine also takes input 'z'"):
            shown(side, ["y"], X)

    def test_an_input_that_the_engine_has_no_use_for(self, chain: Callable) -> None:
        model = chain("y = Relu(x)", inputs="float[n,8] x, float[n,8] z")
        used = model.normalised.clone()
        used.graph.inputs.pop()
        side = Engines().side("candidate", model, used)
        assert shown(side, ["y"], {**X, "z": X["x"]})["y"].shape == (2, 8)

    def test_a_shape_outside_of_the_profile(self, chain: Callable) -> None:
        profile = InputSection(min=(1, 8), opt=(2, 8), max=(3, 8))
        side = engine(chain("y = Relu(x)"), profiles={"x": profile})
        with side.shipped(["y"]) as active:
            infer(active, X, "fits")
            message = (
                r"^candidate: running s:4 failed: input 'x' of shape \[4, 8\] is outside of the engine's "
                r"profile, \[1, 8\] to \[3, 8\]; widen \[inputs\.x\]"
            )
            with pytest.raises(InputError, match=message):
                infer(active, {"x": np.ones((4, 8), np.float32)}, "s:4")
            with pytest.raises(InputError, match=r"shape \[8\] is outside"):
                infer(active, {"x": np.ones(8, np.float32)}, "s:5")


def per_sample_names(side: Side) -> set[str]:
    with side.showing(["y"]) as active:
        return per_sample(active, X, infer(active, X, "one"), "one")


class TestDtypes:
    def test_int64_goes_in_and_comes_out(self, chain: Callable) -> None:
        """Both sides say int64, as the model does, although TensorRT below 10 knows int32 only."""
        model = chain("y = Add(x, x) h = Sub(y, x)", "int64[n] x", "int64[n] y, int64[n] h")
        feeds = {"x": np.array([1, -5, 2**30 - 1])}
        golden, found = (shown(side, ["y", "h"], feeds) for side in (as_given(model), engine(model)))
        for name, array in golden.items():
            assert found[name].dtype == array.dtype == np.int64
            np.testing.assert_array_equal(found[name], array)

    @pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**62])
    def test_an_integer_that_the_engine_cannot_hold(self, chain: Callable, value: int) -> None:
        side = engine(chain("y = Abs(x)", "int64[n] x", "int64[n] y"))
        with pytest.raises(InputError, match=f"input 'x' holds {value}, which the int32 of the engine"):
            shown(side, ["y"], {"x": np.array([1, value])})

    def test_a_float64_that_the_engine_cannot_hold(self, chain: Callable) -> None:
        side = engine(chain("y = Abs(x)", "double[n] x", "double[n] y"))
        assert shown(side, ["y"], {"x": np.array([-0.1])})["y"] == np.float32(0.1)
        assert shown(side, ["y"], {"x": np.array([-0.1])})["y"].dtype == np.float64
        with pytest.raises(InputError, match=r"input 'x' holds 1e\+39, which the float32"):
            shown(side, ["y"], {"x": np.array([1.0, 1e39])})

    def test_an_engine_with_another_input_dtype(self, gemm: Model, chain: Callable) -> None:
        half = chain("y = Relu(x)", "float16[n,8] x", "float16[n,8] y")
        side = Engines().side("candidate", gemm, half.normalised)
        with pytest.raises(InputError, match="the engine takes input 'x' as float16, the model as float32"):
            shown(side, ["y"], X)

    def test_halves_inside_are_widened_and_those_that_ship_are_left_to_see(self, chain: Callable) -> None:
        """What reads an output as float32 would get rubbish from an engine that writes float16."""
        model = chain("h = Relu(x) y = Neg(h)")
        half = chain("c = Cast<to = 10>(x) h = Relu(c) y = Neg(h)", outputs="float16[n,8] y, float16[n,8] h")
        side = Engines().side("candidate", model, half.normalised)
        found = shown(side, ["h", "y"], X)
        assert found["h"].dtype == np.float32
        assert found["y"].dtype == np.float16

    def test_a_tensor_that_the_model_does_not_know_the_dtype_of(self, chain: Callable) -> None:
        model = chain("h = EfficientNMS_TRT(x) y = Relu(h)", outputs="float[n,8] y")
        half = chain("h = Cast<to = 10>(x) y = Relu(x) i = Cast<to = 6>(x)", outputs="float[n,8] y")
        side = Engines().side("candidate", model, files.read(half.path))  # normalising drops unread nodes
        found = shown(side, ["y", "h", "i"], X)
        assert found["h"].dtype == np.float32
        assert found["i"].dtype == np.int32

    def test_an_integer_where_the_model_has_floats_stays_one(self, chain: Callable) -> None:
        model, other = chain("h = Relu(x) y = Neg(h)"), chain("h = Cast<to = 6>(x) y = Neg(x)")
        side = Engines().side("candidate", model, files.read(other.path))
        assert shown(side, ["h"], X)["h"].dtype == np.int32


class TestDebugTensors:
    def test_those_that_are_not_fused_are_shown_in_the_engine_as_it_ships(self, gemm: Model) -> None:
        engines = Engines(unfused=["a", "b"])
        side = engines.side("candidate", gemm, gemm.normalised, debug=plan(gemm), layer_bytes=1)
        assert (side.shows, side.layer_bytes) == ("unfused layers", None)
        found = shown(side, ["a", "r", "y"], X)
        assert list(found) == ["a", "y"]
        assert engines.opened == [("y",)]  # nothing is marked
        np.testing.assert_allclose(found["a"], shown(as_given(gemm), ["a"], X)["a"], rtol=1e-5)

    def test_they_last_too(self, gemm: Model) -> None:
        side = Engines(unfused=["a"]).side("candidate", gemm, gemm.normalised, debug=plan(gemm))
        with side.showing(["a"]) as active:
            first = infer(active, X, "one")["a"]
            kept = first.copy()
            infer(active, {"x": X["x"] + 1}, "two")
        np.testing.assert_array_equal(first, kept)

    def test_without_them_marked_tensors_have_a_limit(self, gemm: Model) -> None:
        side = engine(gemm, layer_bytes=7)
        assert (side.shows, side.layer_bytes, side.whole) == ("layers", 7, True)


def plan(model: Model) -> Callable[[], bytes]:
    return lambda: files.serialize(model.normalised)
