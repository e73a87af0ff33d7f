"""Image files -> samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.inputs import InputSpec
from calibrators.pack import Sample, samples_in
from trtbuild.errors import InputError, MachineError, one_line
from trtbuild.shards.pixels import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}


def require_pillow() -> None:
    """Raise MachineError unless Pillow is there."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MachineError("reading images takes Pillow; pip install 'trtbuild[images]'") from error


def read(
    paths: Sequence[Path], pixels: Pixels, inputs: Sequence[InputSpec], batched: bool
) -> Iterator[Sample]:
    """One sample per file, in the order of the paths.

    Raises InputError, naming the file, for one that is no image, is damaged, or has more than 8 bits per
    channel; ShardError for one that becomes NaN or Inf.
    """
    for path in paths:
        array = pixels.array(_image(path, pixels))
        yield from samples_in(str(path), {pixels.input: array}, inputs, batched)


def _image(path: Path, pixels: Pixels) -> NDArray[np.uint8]:
    """(height, width, channels). Transparency is dropped, as OpenCV does; EXIF rotation is not applied."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode in _EIGHT_BITS:
                return _pixels(image, pixels)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes: Pillow raises OSError, SyntaxError, struct.error, …
        raise InputError(f"{path}: not an image that Pillow can read: {one_line(error)}") from error
    raise InputError(
        f"{path}: mode {mode} has more than 8 bits per channel, which Pillow would clip to 255; "
        "convert it to 8 bits, or write a generator (file.py:function)"
    )


def _pixels(image: Any, pixels: Pixels) -> NDArray[np.uint8]:
    from PIL import Image

    converted = image.convert("L" if pixels.color == "gray" else "RGB")
    if pixels.size is not None and converted.size != pixels.size:
        converted = converted.resize(pixels.size, Image.Resampling.BILINEAR)
    array = np.asarray(converted, np.uint8)
    if pixels.color == "gray":
        return array[:, :, None]
    return array[:, :, ::-1] if pixels.color == "bgr" else array
