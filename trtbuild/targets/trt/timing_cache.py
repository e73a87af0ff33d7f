"""TensorRT's timing cache on disk: what it measured once on this GPU it need not measure again."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from calibrators.whole_file import replacing
from trtbuild.progress import say
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.gpu import gpu_name

if TYPE_CHECKING:
    import tensorrt as trt


def cache_file(binding: Binding, folder: str | None) -> Path | None:
    """Where the cache of this GPU and TensorRT version lies; None for no cache (`folder` is "none")."""
    if folder == "none":
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(folder) if folder else home / "trtbuild" / "timing"
    name = re.sub(r"[^\w.-]+", "-", f"{gpu_name() or 'no-gpu'}-{binding.__version__}")
    return place / f"{name}.cache"


def use(config: trt.IBuilderConfig, path: Path | None) -> None:
    """Give the builder the cache at `path`; one that TensorRT does not accept is discarded, and said."""
    if path is None:
        return
    stored = _read(path)
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        say(f"timing cache {path} is not of this GPU and TensorRT version, or damaged: discarded")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def keep(config: trt.IBuilderConfig, path: Path | None) -> None:
    """Store what was measured, together with what another build stored meanwhile. A cache only saves
    time: one that cannot be written is said, and fails nothing."""
    if path is None:
        return
    cache = config.get_timing_cache()
    if cache is None:
        return
    theirs = config.create_timing_cache(_read(path))
    # what TensorRT does not accept may be a cache without anything in it, which only `set` looks for
    if theirs is not None and config.set_timing_cache(theirs, ignore_mismatch=False):
        cache.combine(theirs, ignore_mismatch=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(bytes(cache.serialize()))
    except OSError as error:
        say(f"timing cache {path} was not stored: {error.strerror or error}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        say(f"timing cache {path} was not read: {error.strerror or error}")
        return b""
