"""A side that runs an equalized model: compared as the model file has it; and what targets build of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.rewrite.apart import FED, apart
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.equalize import equalized
from trtbuild.targets.base import Request, Target
from trtbuild.targets.scaled import as_in_file
from trtbuild.targets.session import infer, runner
from trtbuild.targets.sides import OnnxRuntimeSide

Requests = Callable[..., Request]
FACTORS = np.asarray([0.25, 1, 4, 32, 2, 0.5], np.float32)
"""Powers of two: so a float32 build of the equalized model is the same to the bit."""
BODY = "a = Conv(x, w1, b1) r = Relu(a) c = Conv(r, w2) y = Relu(c)"
WEIGHTS: dict[str, Any] = {"w1": (6, 4, 3, 3), "b1": (6,), "w2": (3, 6, 3, 3)}
LAYERS = ["a", "r", "c"]


@pytest.fixture
def request_for(toy: Callable[..., Path], request_of: Requests) -> Callable[..., Request]:
    """A request for the equalized toy, at one default precision."""

    def make(default: str = "int8", *pins: str) -> Request:
        request = request_of(toy(body=BODY, weights=WEIGHTS), default, *pins)
        return replace(request, model=equalized(request.model, {"r": FACTORS}))

    return make


@pytest.fixture
def x(feeds: Callable[..., Any], request_for: Callable[..., Request]) -> dict[str, Any]:
    fed: dict[str, Any] = feeds(request_for().model)
    return fed


def floats(model: Model, x: dict[str, Any]) -> dict[str, Any]:
    with runner(with_outputs(model.normalised, [*LAYERS, "y"]), "float") as active:
        return infer(active, x, "a sample")


class TestSide:
    @pytest.fixture
    def model(self, request_for: Callable[..., Request]) -> Model:
        model: Model = request_for().model
        assert set(model.scaled) == {"a", "r"}
        return model

    @pytest.fixture
    def in_file(self, model: Model, x: dict[str, Any]) -> dict[str, Any]:
        return floats(Model.open(model.path), x)

    def test_it_shows_what_the_file_has(
        self, model: Model, in_file: dict[str, Any], x: dict[str, Any]
    ) -> None:
        plain = OnnxRuntimeSide("candidate", model.normalised, "a caveat")
        side = as_in_file(plain, model)
        for name in ("name", "caveat", "outputs", "whole", "shows", "layer_bytes", "profiles"):
            assert getattr(side, name) == getattr(plain, name)
        parts = side.dissection
        assert parts is not None
        for shown in (side.showing, parts.otherwise):
            with shown([*LAYERS, "y"]) as active:
                assert active.name == "candidate"
                seen = infer(active, x, "a sample")
            for name, array in seen.items():
                assert array.dtype == np.float32
                np.testing.assert_allclose(array, in_file[name], rtol=1e-5, atol=1e-5)
        with side.showing([*LAYERS, "y"]) as active:
            seen = infer(active, x, "a sample")
        for name, array in seen.items():
            np.testing.assert_array_equal(array, in_file[name])
        with side.shipped(["y"]) as active:
            np.testing.assert_array_equal(infer(active, x, "a sample")["y"], in_file["y"])

    def test_layers_apart_are_fed_what_the_file_has(
        self, model: Model, in_file: dict[str, Any], x: dict[str, Any]
    ) -> None:
        """Each computes from what is fed, not from what the layer before it made of x."""
        side = as_in_file(OnnxRuntimeSide("candidate", model.normalised), model)
        given = {name: np.abs(in_file[name]) + 1 for name in LAYERS}
        given["y"] = in_file["y"]
        parts = side.dissection
        assert parts is not None
        with parts.layerwise([*LAYERS, "y"], dict.fromkeys(given, np.dtype(np.float32))) as active:
            assert set(active.reads) == {"a", "r", "c"}
            before = {name: array.copy() for name, array in given.items()}
            seen = infer(active, {**x, **given}, "a sample")
        np.testing.assert_array_equal(seen["r"], given["a"])
        np.testing.assert_array_equal(seen["y"], given["c"])
        np.testing.assert_array_equal(seen["a"], in_file["a"])
        with runner(apart(Model.open(model.path).normalised, ["c"], {"r": given["r"].dtype}), "c") as alone:
            expected = infer(alone, {**x, f"r{FED}": given["r"]}, "a sample")
        np.testing.assert_array_equal(seen["c"], expected["c"])
        for name, array in before.items():
            np.testing.assert_array_equal(given[name], array, err_msg="what is fed was changed")

    def test_a_model_that_is_not_equalized_needs_none(self, model: Model) -> None:
        side = OnnxRuntimeSide("candidate", model.normalised)
        assert as_in_file(side, Model.open(model.path)) is side

    def test_an_engine_cannot_be_taken_apart(self, model: Model) -> None:
        class Engine(OnnxRuntimeSide):
            dissection = None  # type: ignore[assignment]

        assert as_in_file(Engine("candidate", model.normalised), model).dissection is None


@pytest.mark.parametrize("pins", [(), ("type:Conv", "type:Relu")], ids=["int8", "fp32"])
def test_every_target_builds_the_equalized_model(
    pins: tuple[str, ...],
    target: Target,
    request_for: Callable[..., Request],
    x: dict[str, Any],
    tmp_path: Path,
) -> None:
    request = request_for("int8", *pins)
    built = target.build(request, tmp_path / target.artifact)
    assert {layer.precision for layer in built.layers if layer.type in ("Conv", "CONVOLUTION")} == (
        {"fp32"} if pins else {"int8"}
    )
    candidate = target.candidate(request, tmp_path / target.artifact)
    in_file = floats(Model.open(request.model.path), x)
    for side, factor in ((candidate, FACTORS.reshape(-1, 1, 1)), (as_in_file(candidate, request.model), 1)):
        with side.showing([*LAYERS, "y"]) as active:
            seen = infer(active, x, "a sample")
        for name in ("a", "r"):
            expected = in_file[name] * factor
            assert np.linalg.norm(seen[name] - expected) <= (0 if pins else 0.3) * np.linalg.norm(expected)
        if pins:
            np.testing.assert_array_equal(seen["y"], in_file["y"])


def test_the_golden_is_the_file(
    target: Target, request_for: Callable[..., Request], x: dict[str, Any], tmp_path: Path
) -> None:
    request = request_for()
    with target.golden(request, tmp_path).showing([*LAYERS, "y"]) as active:
        seen = infer(active, x, "a sample")
    for name, array in floats(Model.open(request.model.path), x).items():
        np.testing.assert_array_equal(seen[name], array)


def test_ranges_of_the_equalized_tensors_are_missed(
    target: Target, request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """Names stay: the table of an equalized model has the same tensors."""
    request = request_for()
    assert request.table is not None
    assert set(target.ranges(request.model)) == set(request.table.ranges)
    table = replace(request.table, ranges={"x": request.table.ranges["x"]})
    with pytest.raises(InputError, match="no calibrated range for tensor 'r'"):
        target.build(replace(request, table=table), tmp_path / target.artifact)
