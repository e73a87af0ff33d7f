"""Where a check was made: versions, the machine, the GPU."""

from __future__ import annotations

import platform
from typing import Any

import trtbuild
from trtbuild.targets.trt.gpu import gpu_name
from trtbuild.versions import version_of

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
        "packages": {name: version_of(name) for name in PACKAGES},
    }
