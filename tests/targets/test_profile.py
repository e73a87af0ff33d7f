"""Optimization profiles over networks that TensorRT-RTX's parser made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.recipe import InputSection
from trtbuild.targets.trt.compile import open_builder
from trtbuild.targets.trt.log import open_log
from trtbuild.targets.trt.parse import parse
from trtbuild.targets.trt.profile import add_profile, profile_of

trt: Any = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'trtbuild[rtx]'")

Shapes = tuple[tuple[int, ...], ...]


@pytest.fixture
def profile(toy: Callable[..., Path]) -> Callable[..., Any]:
    """The profile of a toy's network, which then takes it; shapes are given as (min, opt, max)."""

    def make(source: str | dict[str, Any], **shapes: Shapes) -> Any:
        path = toy(source) if isinstance(source, str) else toy(**source)
        log = open_log(trt)
        builder = open_builder(trt, log)
        parsed = parse(trt, builder, Model.open(path).normalised, log, typed=True)
        sections = {
            name: InputSection(min=low, opt=middle, max=high) for name, (low, middle, high) in shapes.items()
        }
        made = profile_of(builder, parsed.network, sections)
        config = builder.create_builder_config()
        add_profile(config, made)
        assert config.num_optimization_profiles == 1
        return made

    return make


def shapes_of(profile: Any, name: str) -> list[tuple[int, ...]]:
    return [tuple(shape) for shape in profile.get_shape(name)]


def test_every_input_has_its_shapes(profile: Callable[..., Any]) -> None:
    given = ((1, 3, 4, 8), (2, 3, 8, 8), (4, 3, 16, 8))
    assert shapes_of(profile("dynamic", x=given), "x") == list(given)


def test_an_input_of_static_shape_has_its_own(profile: Callable[..., Any]) -> None:
    made = profile("two-inputs", z=((4, 4),) * 3)
    assert shapes_of(made, "x") == shapes_of(made, "z") == [(4, 4)] * 3


def test_a_dynamic_input_without_shapes_is_named(profile: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"input 'x' has dynamic axes \(-1, 3, -1, 8\); give \[inputs.x\]"):
        profile("dynamic")


LOW, MIDDLE, HIGH = (1, 3, 4, 8), (2, 3, 8, 8), (4, 3, 16, 8)


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        ("min = [1, 2, 4, 8]", ((1, 2, 4, 8), MIDDLE, HIGH)),
        ("opt = [2, 4, 8, 8]", (LOW, (2, 4, 8, 8), (4, 4, 16, 8))),
        ("max = [4, 3, 16, 9]", (LOW, MIDDLE, (4, 3, 16, 9))),
        ("min = [1, 3, 4]", (LOW[:3], MIDDLE[:3], HIGH[:3])),
        ("min = [1, 3, 4, 8, 1]", ((*LOW, 1), (*MIDDLE, 1), (*HIGH, 1))),
    ],
)
def test_shapes_that_the_network_cannot_take_are_named(
    wrong: str, given: Shapes, profile: Callable[..., Any]
) -> None:
    """The recipe and the shards were held against the model; the network is another thing."""
    with pytest.raises(InputError) as refused:
        profile("dynamic", x=given)
    assert f"[inputs.x] {wrong} does not fit [-1, 3, -1, 8], " in str(refused.value)


def test_an_input_that_holds_a_shape_is_refused(profile: Callable[..., Any]) -> None:
    toy = {"body": "y = Reshape(x, s)", "inputs": "float[2,8] x, int64[2] s", "outputs": "float[a,b] y"}
    with pytest.raises(InputError, match=r"input 's' holds a shape, .*no place in a recipe"):
        profile(toy)


def test_what_tensorrt_finds_invalid_is_an_error(profile: Callable[..., Any]) -> None:
    """add_optimization_profile says so by -1, which is easily overlooked."""
    builder = trt.Builder(open_log(trt))
    upside_down = builder.create_optimization_profile()
    upside_down.set_shape("x", (5, 3), (2, 3), (4, 3))
    with pytest.raises(InputError, match=r"finds the optimization profile invalid; .*\[inputs"):
        add_profile(builder.create_builder_config(), upside_down)
