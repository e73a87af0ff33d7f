"""The FP32 golden engine: the same in both modes of target `tensorrt`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from trtbuild.targets.base import Request, Side
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.making import make_golden
from trtbuild.targets.trt.plan_cache import cached
from trtbuild.targets.trt.watching import engine_side

FOR_LOWERING = frozenset({"calibrator", "constraints", "pin_inputs", "tf32", "dla_core", "gpu_fallback"})
"""Options that a golden does not go by."""


def golden_side(binding: Binding, request: Request, identity: dict[str, Any], folder: Path | None) -> Side:
    """The model file as it was given, in float32 without TF32; its engine is kept in `folder`."""
    options = {key: value for key, value in identity["options"].items() if key not in FOR_LOWERING}
    parts = {
        "golden": request.model.sha256,
        "profiles": {name: shapes.model_dump() for name, shapes in request.profiles.items()},
        **{key: value for key, value in identity.items() if key != "mode"},
        "options": options,
    }
    return engine_side(
        binding,
        request,
        f"golden (TensorRT {binding.__version__}, FP32)",
        plan=functools.cache(lambda: cached(folder, parts, lambda: make_golden(binding, request))),
        made=lambda marked, unfused: make_golden(binding, request, marked, unfused),
    )
