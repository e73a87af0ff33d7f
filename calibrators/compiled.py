"""numba, where a measurement asked for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile on first call; the result is kept in the user's cache folder, or in memory without one.

    numba's own choice, beside the source, would leave files in an installed package that no uninstall
    knows of; NUMBA_CACHE_DIR goes before both.
    """
    chosen = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = chosen or _user_cache()
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = chosen


def _user_cache() -> str:
    try:
        return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trtbuild")
    except RuntimeError:  # no home
        return ""
