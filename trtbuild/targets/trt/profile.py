"""The optimization profile: the shapes that TensorRT prepares each input for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtbuild.errors import InputError
from trtbuild.recipe import InputSection

if TYPE_CHECKING:
    import tensorrt as trt


def profile_of(
    builder: trt.Builder, network: trt.INetworkDefinition, shapes: Mapping[str, InputSection]
) -> trt.IOptimizationProfile:
    """A profile over every input of `network`; one of static shape that `shapes` does not hold has its own.

    Raises InputError for a dynamic input without shapes, for shapes that the network cannot take, and for
    an input whose values are a shape.
    """
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        if tensor.is_shape_tensor:
            raise InputError(
                f"input {tensor.name!r} holds a shape, and the values it may take have no place in a recipe; "
                "export the model with that shape computed inside, or constant"
            )
        wanted = shapes.get(tensor.name) or _own(tensor)
        _check(tensor, wanted)
        profile.set_shape(tensor.name, wanted.min, wanted.opt, wanted.max)
    return profile


def add_profile(config: trt.IBuilderConfig, profile: trt.IOptimizationProfile) -> None:
    """Raises InputError when TensorRT finds the profile invalid."""
    if config.add_optimization_profile(profile) < 0:
        raise InputError(
            "TensorRT finds the optimization profile invalid; check min, opt and max in [inputs.*]"
        )


def _own(tensor: trt.ITensor) -> InputSection:
    """The one shape that an input of static shape has."""
    shape: tuple[int, ...] = tensor.shape[:]
    if -1 in shape:
        raise InputError(
            f"input {tensor.name!r} has dynamic axes {shape}; give [inputs.{tensor.name}] "
            "min, opt and max in the recipe, or shards to take the shapes from"
        )
    return InputSection(min=shape, opt=shape, max=shape)


def _check(tensor: trt.ITensor, shapes: InputSection) -> None:
    """TensorRT holds a profile against the network only while it builds, and then in terms of its own."""
    real: tuple[int, ...] = tensor.shape[:]
    for key in ("min", "opt", "max"):
        shape: tuple[int, ...] = getattr(shapes, key)
        if len(shape) != len(real) or any(
            fixed not in (-1, length) for fixed, length in zip(real, shape, strict=True)
        ):
            raise InputError(
                f"[inputs.{tensor.name}] {key} = {list(shape)} does not fit {list(real)}, the shape of that "
                "input in the network; only an axis of length -1 may have another"
            )
