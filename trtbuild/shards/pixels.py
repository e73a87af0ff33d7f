"""How an image becomes the input of a model: what the user said, completed from the model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.inputs import InputSpec
from trtbuild.errors import InputError

CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}


@dataclass(frozen=True)
class PixelOptions:
    """What was asked for; None where nothing was. resize: width, height. mean, std: in the order of the
    model's channels, of the scaled values."""

    layout: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    color: str | None = None
    resize: tuple[int, int] | None = None

    def given(self) -> list[str]:
        """The options that were used, as they are written on the command line."""
        return [f"--{name}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True, eq=False)
class Pixels:
    """value = (pixel * scale - mean) / std, pixel 0 to 255; a model of integers gets the pixels themselves.

    size: width, height of every image; None: each keeps its own. mean, std: shape (1,) or (channels,).
    """

    input: str
    dtype: np.dtype[Any]
    channels_last: bool
    color: str
    size: tuple[int, int] | None
    scale: float
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def array(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """What the model takes of an image of shape (height, width, channels), coloured as `color` says."""
        if self.dtype.kind == "f":
            with np.errstate(over="ignore"):  # Inf is refused by whoever packs it
                values = ((image * self.scale - self.mean) / self.std).astype(self.dtype)
        else:
            values = image.astype(self.dtype)
        return np.ascontiguousarray(values if self.channels_last else values.transpose(2, 0, 1))


def pixels_of(options: PixelOptions, inputs: Sequence[InputSpec], batched: bool) -> Pixels:
    """Complete the options from the one input of the model, of shape (batch, channels, height, width) or
    (batch, height, width, channels), or the same without a batch.

    Raises InputError for another model, and for options that do not fit it or leave something open.
    """
    if len(inputs) != 1:
        raise InputError(
            f"images feed a model with one input, this one has {len(inputs)}: "
            f"{', '.join(spec.name for spec in inputs)}; write a generator (file.py:function)"
        )
    spec = inputs[0]
    shape = spec.shape[1:] if batched else spec.shape
    if len(shape) != 3:
        raise InputError(
            f"input {spec.name!r} has shape {list(spec.shape)}: expected one that takes an image"
        )
    channels_last = _channels_last(options.layout, spec, shape)
    height, width, channels = shape if channels_last else (shape[1], shape[2], shape[0])
    color = options.color or ("gray" if channels == 1 else "rgb")
    if channels not in (None, CHANNELS[color]):
        raise InputError(
            f"--color {color} has {CHANNELS[color]} channels, input {spec.name!r} takes {channels}"
        )
    return Pixels(
        input=spec.name,
        dtype=spec.dtype,
        channels_last=channels_last,
        color=color,
        size=_size(spec.name, options.resize, width, height),
        scale=_scale(options, spec),
        mean=_per_channel("--mean", options.mean or (0.0,), color),
        std=_per_channel("--std", options.std or (1.0,), color),
    )


def _channels_last(layout: str | None, spec: InputSpec, shape: Sequence[int | None]) -> bool:
    if layout is not None:
        return layout == "nhwc"
    first, last = (length in (1, 3) for length in (shape[0], shape[2]))
    if first == last:
        raise InputError(
            f"input {spec.name!r} has shape {list(spec.shape)}, which does not say where the channels are; "
            "give --layout nchw or --layout nhwc"
        )
    return last


def _size(
    name: str, asked: tuple[int, int] | None, width: int | None, height: int | None
) -> tuple[int, int] | None:
    if asked is not None:
        if (width or asked[0], height or asked[1]) != asked:
            takes = f"width {width or 'any'}, height {height or 'any'}"
            raise InputError(f"--resize {asked[0]}x{asked[1]}: input {name!r} takes {takes}; drop the option")
        return asked
    return (width, height) if width and height else None


def _scale(options: PixelOptions, spec: InputSpec) -> float:
    if spec.dtype.kind == "f":
        if options.scale is None:
            raise InputError(
                f"input {spec.name!r} takes floats: --scale 1/255 is for 0 to 1, --scale 1 for 0 to 255"
            )
        return options.scale
    unfit = [name for name in options.given() if name in ("--scale", "--mean", "--std")]
    if unfit:
        raise InputError(f"input {spec.name!r} takes {spec.dtype}, the pixels themselves; drop {unfit[0]}")
    if not np.can_cast(np.uint8, spec.dtype):
        raise InputError(f"input {spec.name!r} takes {spec.dtype}, which does not hold pixels from 0 to 255")
    return 1.0


def _per_channel(option: str, values: tuple[float, ...], color: str) -> NDArray[np.float64]:
    if len(values) not in (1, CHANNELS[color]):
        raise InputError(f"{option} has {len(values)} numbers; expected 1 or {CHANNELS[color]} ({color})")
    return np.asarray(values, np.float64)
