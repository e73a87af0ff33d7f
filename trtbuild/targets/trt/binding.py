"""The three Python modules of TensorRT as one type: what of them trtbuild uses, and how they are loaded.

Which of it a version has is asked with `hasattr`, never by comparing versions.
"""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from trtbuild.errors import MachineError, one_line

if TYPE_CHECKING:
    import tensorrt as trt

RTX = "tensorrt_rtx"
TENSORRT = "tensorrt"
TEGRA_RELEASE = Path("/etc/nv_tegra_release")  # only a Jetson has it


class Binding(Protocol):
    """`tensorrt` (8.5 to 11) or `tensorrt_rtx`: the names that every one of them has."""

    @property
    def __version__(self) -> str: ...
    @property
    def Builder(self) -> type[trt.Builder]: ...  # noqa: N802  (the binding's own names)
    @property
    def BuilderFlag(self) -> type[trt.BuilderFlag]: ...  # noqa: N802
    @property
    def DataType(self) -> type[trt.DataType]: ...  # noqa: N802
    @property
    def DeviceType(self) -> type[trt.DeviceType]: ...  # noqa: N802
    @property
    def IActivationLayer(self) -> type[trt.IActivationLayer]: ...  # noqa: N802
    @property
    def IConstantLayer(self) -> type[trt.IConstantLayer]: ...  # noqa: N802
    @property
    def IElementWiseLayer(self) -> type[trt.IElementWiseLayer]: ...  # noqa: N802
    @property
    def INetworkDefinition(self) -> type[trt.INetworkDefinition]: ...  # noqa: N802
    @property
    def ILayer(self) -> type[trt.ILayer]: ...  # noqa: N802
    @property
    def ILogger(self) -> type[trt.ILogger]: ...  # noqa: N802
    @property
    def LayerInformationFormat(self) -> type[trt.LayerInformationFormat]: ...  # noqa: N802
    @property
    def LayerType(self) -> type[trt.LayerType]: ...  # noqa: N802
    @property
    def MemoryPoolType(self) -> type[trt.MemoryPoolType]: ...  # noqa: N802
    @property
    def NetworkDefinitionCreationFlag(self) -> type[trt.NetworkDefinitionCreationFlag]: ...  # noqa: N802
    @property
    def OnnxParser(self) -> type[trt.OnnxParser]: ...  # noqa: N802
    @property
    def ProfilingVerbosity(self) -> type[trt.ProfilingVerbosity]: ...  # noqa: N802
    @property
    def Runtime(self) -> type[trt.Runtime]: ...  # noqa: N802
    @property
    def TacticSource(self) -> type[trt.TacticSource]: ...  # noqa: N802


def load(name: str) -> Binding:
    """Import `tensorrt` or `tensorrt_rtx`. Raises MachineError, with the command that installs it."""
    try:
        module = importlib.import_module(name)
        if not hasattr(module, "Builder"):  # a folder of type stubs alone; the dispatch or lean runtime
            raise ImportError(f"the module {name} that is installed has no builder")
    except Exception as error:  # whatever a broken installation raises
        target = name.replace("_", "-")
        raise MachineError(
            f"target {target} needs the package {target} ({one_line(error)}); {_install(name)}"
        ) from error
    return cast(Binding, module)


def has_calibrators(binding: Binding) -> bool:
    """Whether this TensorRT quantizes implicitly: calibrators, dynamic ranges and layer precisions."""
    return hasattr(binding, "IInt8EntropyCalibrator2") and hasattr(binding.BuilderFlag, "INT8")


def strongly_typed(binding: Binding) -> bool:
    """Whether this TensorRT can take its types from the network."""
    flags = binding.NetworkDefinitionCreationFlag
    return hasattr(flags, "STRONGLY_TYPED") or not has_calibrators(binding)


def _install(name: str) -> str:
    if name == RTX:
        return "pip install 'trtbuild[rtx]'"
    if TEGRA_RELEASE.is_file():
        return (
            "on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, then make the virtual "
            "environment with --system-site-packages"
        )
    if platform.machine() == "aarch64":
        return "pip install 'trtbuild[tensorrt]' (an SBSA server; it brings the CUDA libraries along)"
    return "pip install 'trtbuild[tensorrt]'"
