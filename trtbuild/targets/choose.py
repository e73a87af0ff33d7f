"""Which target a name means on this machine."""

from __future__ import annotations

from typing import Literal

from trtbuild.errors import InputError, MachineError
from trtbuild.targets.base import Target
from trtbuild.targets.simulation import Simulation
from trtbuild.targets.tensorrt_explicit import TensorRTExplicit
from trtbuild.targets.tensorrt_implicit import TensorRTImplicit
from trtbuild.targets.trt import binding

NAMES = ("auto", "tensorrt", "tensorrt-rtx", "onnxruntime")
Mode = Literal["implicit", "explicit"] | None


def choose(name: str, mode: Mode = None) -> Target:
    """The target called `name`, ready to build; `auto` is tensorrt where it and a GPU are there, else
    onnxruntime.

    Raises InputError for an unknown name, MachineError where this machine cannot build for it.
    """
    target = by_name(name, mode)
    target.require()
    return target


def by_name(name: str, mode: Mode = None) -> Target:
    """The target called `name`, whether or not this machine can build for it.

    `mode` is for tensorrt: by default implicit as long as TensorRT has calibrators.
    """
    if name == "auto":
        return _auto(mode)
    if name == "tensorrt":
        return TensorRTExplicit(binding.TENSORRT) if _is_explicit(mode) else TensorRTImplicit()
    targets: dict[str, Target] = {
        "tensorrt-rtx": TensorRTExplicit(binding.RTX),
        "onnxruntime": Simulation(),
    }
    if name not in targets:
        raise InputError(f"unknown target {name!r}; there are {', '.join(NAMES)}")
    return targets[name]


def _auto(mode: Mode) -> Target:
    target = by_name("tensorrt", mode)
    try:
        target.require()
    except MachineError:
        return Simulation()
    return target


def _is_explicit(mode: Mode) -> bool:
    if mode is not None:
        return mode == "explicit"
    try:
        return not binding.has_calibrators(binding.load(binding.TENSORRT))
    except MachineError:
        return False  # said when it is used
