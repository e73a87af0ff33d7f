"""Times of layers from TensorRT's profiler, over doubles of the binding and of libcudart."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.targets.binding_double import make, profiler
from tests.targets.binding_double.context import milliseconds
from tests.targets.binding_double.session import VERSIONS
from tests.targets.cudart_double import Library
from trtbuild.errors import InputError, MachineError
from trtbuild.targets.base import Request
from trtbuild.targets.choose import by_name
from trtbuild.targets.trt import cudart
from trtbuild.targets.trt.cudart import Cudart
from trtbuild.targets.trt.profiling import Profile, profile_plan

pytest.importorskip("tensorrt_rtx", reason="the double parses with tensorrt_rtx: pip install 'trtbuild[rtx]'")
FEEDS = {"x": np.ones((2, 4, 8, 8), np.float32)}
Open = Callable[..., SimpleNamespace]


@pytest.fixture
def built(
    tensorrt: Callable[..., Any],
    request_of: Callable[..., Request],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Open]:
    """Build a toy in int8 with a double of TensorRT; after the test nothing may be left on the GPU."""
    library = Library()
    monkeypatch.setattr(cudart, "load", lambda: Cudart(library))

    def build(version: str = "8.5.1.7", mode: str = "implicit", **behaviour: Any) -> SimpleNamespace:
        double = tensorrt(version, cuda=library, **behaviour)
        path = tmp_path / "engine.plan"
        request = request_of("residual", implicit=mode == "implicit")
        layers = by_name("tensorrt", mode).build(request, path).layers
        plan = double.Runtime(double.Logger()).deserialize_cuda_engine(path.read_bytes())._plan
        times = {layer["name"]: milliseconds(layer) for layer in plan["layers"]}
        return SimpleNamespace(
            path=path,
            trt=double,
            library=library,
            layers=layers,
            times={name: time for name, time in times.items() if time is not None},
        )

    yield build
    assert library.alive == {}


def profiled(made: SimpleNamespace, warmup: int = 1, iterations: int = 3, feeds: Any = None) -> Profile:
    return profile_plan("int8", made.path, feeds or FEEDS, warmup, iterations)


@pytest.mark.parametrize(
    ("version", "mode"),
    [*((v, "implicit") for v in VERSIONS), ("10.13.0", "explicit"), ("11.0.0", "explicit")],
)
def test_every_layer_that_runs(version: str, mode: str, built: Open) -> None:
    made = built(version, mode)
    found = profiled(made)
    assert found.milliseconds == made.times  # of which no run but the first, which warms up, differs
    assert len(made.library.ran) == 4
    named = {node for layer in found.layers for node in layer.nodes}
    assert named >= (set() if version == "8.5.1.7" else {"Conv_c1", "Conv_c2", "Add_s"})
    assert {layer.name for layer in found.layers} <= {layer["name"] for layer in _layers(made)}


def _layers(made: SimpleNamespace) -> list[dict[str, Any]]:
    engine = made.trt.Runtime(made.trt.Logger()).deserialize_cuda_engine(made.path.read_bytes())
    return list(engine._plan["layers"])


def test_runs_that_warm_up_do_not_count(built: Open) -> None:
    made = built()
    cold = profiled(made, warmup=0, iterations=2)
    assert cold.milliseconds == {name: time * (10 + 1) / 2 for name, time in made.times.items()}
    assert profiled(made, warmup=1, iterations=1).milliseconds == made.times


def test_layers_of_one_name_are_taken_together(built: Open) -> None:
    made = built()
    head, plan = made.path.read_bytes()[:4], json.loads(made.path.read_bytes()[4:])
    first, second = (layer for layer in plan["layers"] if "Conv_c" in layer["name"] and layer["weights"])
    name = second["name"] = first["name"]
    made.path.write_bytes(head + json.dumps(plan).encode())
    assert profiled(made).milliseconds[name] == milliseconds(first) + milliseconds(second)  # type: ignore[operator]


def test_layers_are_called_by_their_names(built: Open) -> None:
    """Timing asks for no names at all, which makes launches faster."""
    made = built()
    assert "0" not in profiled(made).milliseconds
    double = made.trt
    context = double.Runtime(double.Logger()).deserialize_cuda_engine(made.path.read_bytes())
    context = context.create_execution_context()
    context.nvtx_verbosity = double.ProfilingVerbosity.NONE
    assert {name for name, _ in context._times()} <= {str(index) for index in range(len(_layers(made)))}


def test_a_report_that_tensorrt_refuses(built: Open) -> None:
    with pytest.raises(MachineError, match=r"does not profile engine int8: .*device not ready"):
        profiled(built(refuses_reports=True))


def test_a_report_that_got_lost(built: Open) -> None:
    """An exception in the callback does that: TensorRT prints it and goes on with the next layer."""
    made = built()
    made.trt._behaviour.loses_reports = frozenset({(3, next(iter(made.times)))})
    with pytest.raises(MachineError, match="other layers of engine int8 than before"):
        profiled(made)


def test_no_report_at_all(built: Open) -> None:
    made = built()
    made.trt._behaviour.loses_reports = frozenset((1, name) for name in made.times)
    with pytest.raises(MachineError, match="reports no layer of engine int8"):
        profiled(made)


def test_ctrl_c_while_tensorrt_reports(built: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised in the callback, it would be printed, and the run would go on without the layer."""
    made, honest = built(), profiler.report
    reports = []

    def report(*arguments: Any) -> None:
        reports.append(arguments)
        if len(reports) == 2:
            signal.raise_signal(signal.SIGINT)
        honest(*arguments)

    monkeypatch.setattr("tests.targets.binding_double.context.report", report)
    with pytest.raises(KeyboardInterrupt):
        profiled(made)
    assert len(reports) == len(made.times), "the report of the first run is heard to the end"
    assert len(made.library.ran) == 1
    assert profiled(made).milliseconds == made.times, "who caught it may go on"


def test_feeds_that_do_not_fit(built: Open) -> None:
    with pytest.raises(InputError, match="is outside the engine's profile"):
        profiled(built(), feeds={"x": np.ones((3, 4, 8, 8), np.float32)})


def test_memory_is_freed_whatever_call_fails(built: Open) -> None:
    made = built()
    profiled(made)
    for number in range(len(made.library.calls)):
        library = Library(fails=number)
        made.trt._behaviour.cuda = library
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cudart, "load", lambda library=library: Cudart(library))
            try:
                profiled(made)
            except MachineError as error:
                assert "answers with error" in str(error)  # noqa: PT017
            assert library.alive == {}, library.calls[number]


def called(trt: Any, report: Callable[[Any, str, float], None], body: Any, capfd: Any) -> str:
    """The first line that is printed when C++ calls a profiler that does `body`."""
    own = {} if body is None else {"report_layer_time": lambda self, name, ms: body()}
    made = type("Own", (trt.IProfiler,), own)()
    capfd.readouterr()
    report(made, "layer", 1.0)
    sys.stderr.flush()
    return str(capfd.readouterr().err).partition("\n")[0]


def _interrupt() -> None:
    raise KeyboardInterrupt


def _nothing() -> None:
    pass


@pytest.mark.parametrize("body", [None, lambda: 1 / 0, _interrupt, _nothing])
def test_profilers_of_both_swallow_the_same(body: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """TensorRT-RTX has the same class; its base's method goes through C++."""
    import tensorrt_rtx

    ours = called(make("10.13.0"), profiler.report, body, capfd)
    theirs = called(tensorrt_rtx, tensorrt_rtx.IProfiler.report_layer_time, body, capfd)
    assert ours == theirs
    assert ours.startswith("[ERROR] Exception caught in report_layer_time(): ") == (body is not _nothing)
