"""Where a check was made: versions, the machine, the GPU."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import trtbuild
from trtbuild.targets.trt.gpu import gpu_name

PACKAGES = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "polygraphy",
    "tensorrt",
    "tensorrt-rtx",
)


def environment() -> dict[str, Any]:
    """Versions of what computes; None for a package that is not installed."""
    return {
        "trtbuild": trtbuild.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpu": gpu_name(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
