"""The builder: TensorRT-RTX's where it fails by itself, else one that fails with what TensorRT has been seen
to say."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.targets import binding_double
from trtbuild.errors import BuildError, MachineError
from trtbuild.progress import STOP
from trtbuild.targets.trt.compile import build_plan, open_builder
from trtbuild.targets.trt.log import open_log

trt: Any = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'trtbuild[rtx]'")
Severity = trt.ILogger.Severity


class Fails:
    """A builder whose builds log messages, as [E] or [W], and return None or raise."""

    def __init__(self, log: Any, *messages: str, raises: BaseException | None = None) -> None:
        self._log, self._messages, self._raises = log, messages, raises

    def build_serialized_network(self, network: Any, config: Any) -> None:
        for message in self._messages:
            severity = Severity.ERROR if message.startswith("[E] ") else Severity.WARNING
            self._log.log(severity, message[4:])
        if self._raises is not None:
            raise self._raises


def failure(*messages: str, raises: BaseException | None = None) -> Exception:
    log = open_log(trt)
    builder: Any = Fails(log, *messages, raises=raises)
    with pytest.raises((BuildError, MachineError)) as failed:
        build_plan(builder, None, None, log)  # type: ignore[arg-type]
    assert "\n" not in str(failed.value)
    return failed.value


def network_of(builder: Any, outputs: int) -> tuple[Any, Any]:
    network = builder.create_network(0)
    value = network.add_input("x", trt.float32, (2, 2))
    for _ in range(outputs):
        value = network.add_activation(value, trt.ActivationType.TANH).get_output(0)
    if outputs:
        network.mark_output(value)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return network, config


def test_a_plan_is_bytes() -> None:
    log = open_log(trt)
    builder = open_builder(trt, log)
    plan = build_plan(builder, *network_of(builder, outputs=1), log)
    assert isinstance(plan, bytes)
    assert len(plan) > 1000


def test_a_build_that_returns_none_says_what_the_log_says() -> None:
    log = open_log(trt)
    builder = open_builder(trt, log)
    with pytest.raises(BuildError, match=r"TensorRT built nothing: .*[Oo]utput"):
        build_plan(builder, *network_of(builder, outputs=0), log)


def test_a_failure_without_a_reason_says_so() -> None:
    assert str(failure()) == "TensorRT built nothing: it gave no reason"


def test_what_the_binding_raises_is_the_reason() -> None:
    error = failure(raises=TypeError("incompatible function arguments\nThe following..."))
    assert str(error) == "TensorRT built nothing: incompatible function arguments"


WORKSPACE = "[E] Could not find any implementation for node Conv_0 due to insufficient workspace. See verbose"
RESIZE = "[virtualMemoryBuffer.cpp::resizePhysical::145]"
NO_IMPLEMENTATION = "Error Code 10: Internal Error (Could not find any implementation for node {0}.)"
OUT_OF_MEMORY = {
    "8.5": (
        f"[E] 2: {RESIZE} Error Code 2: OutOfMemory (no further information)",
        "[W] Requested amount of GPU memory (8589934592 bytes) could not be allocated.",
        f"[E] {NO_IMPLEMENTATION.format('Conv_0')}",
    ),
    "8.5, skipped tactics only": (
        "[W] Skipping tactic 3 due to insufficient memory on requested size of 68719476736 detected.",
        f"[E] {NO_IMPLEMENTATION.format('Conv_0')}",
    ),
    "10.3": (
        "[E] [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        f"[E] IBuilder::buildSerializedNetwork: {NO_IMPLEMENTATION.format('{ForeignNode[a...b]}')}",
    ),
    "beside the workspace": (
        "[W] Skipping tactic 3 due to insufficient memory on requested size of 68719476736 detected.",
        WORKSPACE,
    ),
}


@pytest.mark.parametrize("said", OUT_OF_MEMORY)
def test_out_of_memory_says_which_limits_to_lower(said: str) -> None:
    error = failure(*OUT_OF_MEMORY[said])
    assert isinstance(error, MachineError)
    for limit in ("workspace_gb", "max shapes in [inputs.*]", "other processes on the GPU"):
        assert limit in str(error)


def test_host_memory_too() -> None:
    error = failure(raises=MemoryError())
    assert isinstance(error, MachineError)
    assert "host memory" in str(error)


@pytest.mark.parametrize(
    "said",
    [
        WORKSPACE,
        "[E] Try increasing the workspace size with IBuilderConfig::setMemoryPoolLimit().",
    ],
)
def test_a_workspace_that_is_too_small_is_to_be_raised(said: str) -> None:
    error = failure(said)
    assert isinstance(error, BuildError)
    assert str(error).endswith("; raise [tensorrt] workspace_gb, or leave it out")


def test_other_failures_name_no_limit() -> None:
    error = failure(f"[E] {NO_IMPLEMENTATION.format('TopK_3')}", "[W] Using kFASTER_DYNAMIC_SHAPES")
    assert str(error) == f"TensorRT built nothing: {NO_IMPLEMENTATION.format('TopK_3')}"


NONE_OBEYS = (
    "[E] Error Code 10: Internal Error (No implementation of layer Conv_0 obeys the requested constraints. "
    "I.e. no conforming implementation was found for requested layer computation precision and output "
    "precision. "
    "kOBEY_PRECISION_CONSTRAINTS was set, so treating as error.)"
)


@pytest.mark.parametrize("more", [(), OUT_OF_MEMORY["8.5, skipped tactics only"]])
def test_a_pin_that_cannot_be_held_is_told_before_all_else(more: tuple[str, ...]) -> None:
    error = failure(*more, NONE_OBEYS)
    assert isinstance(error, BuildError)
    assert "No implementation of layer Conv_0" in str(error)
    assert str(error).endswith(
        "; it cannot hold that layer's pin: unpin the node, or what reads it, or set "
        '[tensorrt] constraints = "prefer"'
    )


def test_the_reason_is_none_of_what_went_before() -> None:
    """An error of another build, of a parser or of a timing cache that TensorRT does not take."""
    log = open_log(trt)
    log.log(Severity.ERROR, "Serialization (Magic tag does not match)")  # type: ignore[attr-defined]
    for said in ("no tactic", "Serialization (Magic tag does not match)"):
        builder: Any = Fails(log, f"[E] {said}")
        with pytest.raises(BuildError) as failed:
            build_plan(builder, None, None, log)  # type: ignore[arg-type]
        assert str(failed.value) == f"TensorRT built nothing: {said}"


def test_of_many_errors_the_first_and_the_last_say_what_failed() -> None:
    tactics = [f"[E] tactic {number} cannot be tried" for number in range(9)]
    error = failure(*tactics, *tactics, f"[E] {NO_IMPLEMENTATION.format('TopK_3')}", "[E] Assertion engine")
    assert str(error) == (
        f"TensorRT built nothing: tactic 0 cannot be tried; {NO_IMPLEMENTATION.format('TopK_3')}; "
        "Assertion engine"
    )


class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """As trt/monitor.py's, with a Ctrl-C at the first step."""

    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)
        self.steps = 0

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        self.steps += 1
        if self.steps == 1:
            signal.raise_signal(signal.SIGINT)
        return not STOP.is_set()

    def phase_finish(self, phase_name: str) -> None: ...


@pytest.fixture
def stop() -> Any:
    yield STOP
    STOP.clear()


def test_control_c_ends_a_build(stop: Any) -> None:
    """In TensorRT-RTX's own build: it lets go when the monitor says so, and returns None."""
    log = open_log(trt)
    builder = open_builder(trt, log)
    network, config = network_of(builder, outputs=3)
    config.progress_monitor = monitor = Monitor()
    with pytest.raises(KeyboardInterrupt):
        build_plan(builder, network, config, log)
    assert monitor.steps >= 1


@pytest.mark.parametrize(("version", "made"), [("8.5.1.7", 1), ("8.6.1", 1), ("10.3.0", 2)])
def test_where_no_builder_is_ever_freed_there_is_one(version: str, made: int) -> None:
    """TensorRT 8's network keeps its builder alive, and what its layers, its parser and it keep alive is each
    other."""
    double: Any = binding_double.make(version)
    log = open_log(double)
    first, second = (open_builder(double, log) for _ in range(2))
    assert len({id(first), id(second)}) == made


def test_a_builder_that_could_not_be_had_is_asked_for_again() -> None:
    double: Any = binding_double.make("8.5.1.7", no_gpu=True)
    with pytest.raises(MachineError):
        open_builder(double, open_log(double))
    double._behaviour.no_gpu = False
    assert open_builder(double, open_log(double)) is not None


def test_without_a_gpu_a_builder_cannot_be_had() -> None:
    class Binding:
        """As TensorRT 8.5 without a driver: it warns, and its factory returns a null pointer."""

        __version__ = "8.5.1.7"

        @staticmethod
        def Builder(log: Any) -> None:  # noqa: N802
            log.log(Severity.WARNING, "Unable to determine GPU memory usage")
            log.log(Severity.WARNING, "CUDA initialization failure with error: 35. Please check")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    binding: Any = Binding
    with pytest.raises(MachineError) as missing:
        open_builder(binding, open_log(trt))
    assert "TensorRT 8.5.1.7 found no NVIDIA GPU and driver" in str(missing.value)
    assert "(CUDA initialization failure with error: 35. Please check)" in str(missing.value)
    assert "--target tensorrt-rtx or onnxruntime" in str(missing.value)
