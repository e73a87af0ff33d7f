"""The builder: from a network and a configuration to a plan, or to the reason why not."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, cast

from trtbuild.errors import BuildError, MachineError, one_line
from trtbuild.progress import interrupts_kept
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.log import OUT_OF_MEMORY, Log

if TYPE_CHECKING:
    import tensorrt as trt

_WORKSPACE = re.compile(r"insufficient workspace|increasing the workspace", re.IGNORECASE)
_CONSTRAINTS = re.compile(r"obeys the requested constraints|OBEY_PRECISION_CONSTRAINTS was set")


def open_builder(binding: Binding, log: Log) -> trt.Builder:
    """A builder that writes into `log`, with TensorRT's own plugins at hand: the parser makes use of them.

    Raises MachineError where TensorRT finds no GPU that it can use.
    """
    if hasattr(binding, "init_libnvinfer_plugins"):
        binding.init_libnvinfer_plugins(log, "")
    try:
        if hasattr(binding, "IProgressMonitor"):
            return binding.Builder(log)  # type: ignore[arg-type]  # Log is an ILogger made at run time
        return _lasting_builder(cast(Hashable, binding), cast(Hashable, log))
    except (TypeError, RuntimeError) as error:  # TypeError: "factory function returned nullptr"
        cuda = [message for message in (*log.errors, *log.warnings) if "CUDA" in message]  # 8.5 only warns
        raise MachineError(
            f"TensorRT {binding.__version__} found no NVIDIA GPU and driver that it can use "
            f"({'; '.join(cuda) or one_line(error)}); see what nvidia-smi says, or build without a GPU: "
            "--target tensorrt-rtx or onnxruntime"
        ) from error


@functools.cache
def _lasting_builder(binding: Any, log: Any) -> trt.Builder:
    """The one builder of this process. TensorRT 8's binding never frees a network that was looked at, nor the
    builder that a network keeps alive, with hundreds of MB of kernels on the GPU and more than that on the
    host: a builder for each build would leave all of it there, each time."""
    builder: trt.Builder = binding.Builder(log)
    return builder


def build_plan(
    builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, log: Log
) -> bytes:
    """The serialized engine.

    Raises KeyboardInterrupt once the builder has let go after a Ctrl-C, MachineError when memory ran out, and
    BuildError, with what TensorRT gave as its reason, for every other failure.
    """
    before = len(log.errors)
    try:
        with interrupts_kept():
            plan = builder.build_serialized_network(network, config)
    except MemoryError as error:
        raise MachineError(_out_of_memory("host memory")) from error
    except Exception as error:  # the binding's errors share no base class
        raise _failure(log, before, one_line(error)) from error
    if plan is not None:
        return bytes(plan)
    raise _failure(log, before, log.reason(before))


def _failure(log: Log, before: int, reason: str) -> BuildError | MachineError:
    """A pin first, since TensorRT names its layer. Then memory: a tactic that could not be tried for lack of
    it may leave a layer without any."""
    errors = log.errors[before:]
    messages = [*errors, *log.warnings]
    if any(map(_CONSTRAINTS.search, errors)):
        return BuildError(
            f"TensorRT built nothing: {reason}; it cannot hold that layer's pin: unpin the node, or what "
            'reads it, or set [tensorrt] constraints = "prefer"'
        )
    for message in messages:
        if OUT_OF_MEMORY.search(message):
            return MachineError(_out_of_memory(message))
    more = "; raise [tensorrt] workspace_gb, or leave it out" if any(map(_WORKSPACE.search, messages)) else ""
    return BuildError(f"TensorRT built nothing: {reason}{more}")


def _out_of_memory(message: str) -> str:
    return (
        f"TensorRT ran out of memory ({message}); lower [tensorrt] workspace_gb, or the max shapes in "
        "[inputs.*], or stop other processes on the GPU"
    )
