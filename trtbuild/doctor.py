"""What this machine can build and run, and what is missing."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trtbuild.errors import MachineError
from trtbuild.targets.choose import by_name
from trtbuild.targets.trt.gpu import compute_capability, gpu_name
from trtbuild.versions import version_of

PACKAGES = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "polygraphy",
    "numba",
    "tensorrt",
    "tensorrt-rtx",
    "pycuda",
)


@dataclass(frozen=True)
class TargetStatus:
    """Whether builds for a target can be made and run here; `missing` says what to install if not."""

    target: str
    builds: bool
    runs: bool
    missing: str | None


@dataclass(frozen=True)
class Diagnosis:
    python: str
    platform: str
    gpu: str | None
    compute_capability: str | None
    free_gb: float
    packages: dict[str, str | None]
    targets: tuple[TargetStatus, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at this machine: versions, GPU driver, disk, and what each target lacks."""
    capability = compute_capability()
    rtx, tensorrt = _lacks("tensorrt-rtx"), _lacks("tensorrt")
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        gpu=gpu_name(),
        compute_capability=".".join(map(str, capability)) if capability else None,
        free_gb=round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        packages={name: version_of(name) for name in PACKAGES},
        targets=(
            TargetStatus("onnxruntime", True, True, None),
            TargetStatus(
                "tensorrt-rtx",
                rtx is None,
                False,
                rtx or "running its engines is not supported yet; ONNX Runtime runs the same explicit model",
            ),
            TargetStatus("tensorrt", tensorrt is None, tensorrt is None, tensorrt),
        ),
    )


def _lacks(target: str) -> str | None:
    """What this machine lacks to build for a target; None when it lacks nothing."""
    try:
        by_name(target).require()
    except MachineError as error:
        return str(error)
    return None
