"""Timing on a real GPU: that it works and leaves nothing behind. How fast it is is no test's business."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from trtbuild import bench
from trtbuild.targets.trt import cudart, profiling, timing
from trtbuild.targets.trt.cudart import NotCaptured

pytestmark = pytest.mark.gpu


def free_memory() -> int:
    from polygraphy import cuda

    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert cuda.wrapper().handle.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def test_four_engines_side_by_side(make: Any) -> None:
    found = bench.bench(make(recipe='[[pin]]\nname = "Conv_c2"\n'), batch=16, iterations=70, warmup=5)
    assert list(found.engines) == ["fp32", "fp16", "int8", "mixed"]
    assert found.not_built == {}
    assert found.inputs.startswith("samples of")
    assert found.shapes == {"x": (16, 64, 64, 64)}
    assert (found.method, found.not_captured) == ("graph", None)
    for timed in found.engines.values():
        assert 0 < timed.figures.median_ms <= timed.figures.p99_ms
        assert timed.figures.samples_per_second == pytest.approx(16_000 / timed.figures.median_ms)
        assert timed.lost_pins == 0
    assert "int8" not in found.engines["fp16"].layers
    assert found.engines["int8"].layers["int8"] > found.engines["mixed"].layers["int8"] > 0


def test_layers(make: Any) -> None:
    """TensorRT's profiler reports layers by the names that its inspector has."""
    found = bench.bench(make(), iterations=20, warmup=5, layers=True).layers
    assert found is not None
    for node in ("Conv_c1", "Conv_c2", "MatMul_y"):
        assert found.nodes[node]["fp32"] > 0
        assert found.nodes[node]["int8"] > 0
    for engine in ("fp32", "int8"):
        shared = sum(times[engine] for times in found.nodes.values())
        assert found.total[engine] == pytest.approx(shared + found.other[engine])
        assert found.other[engine] < found.total[engine] / 2


def test_profiling_gives_its_memory_back(make: Any, build: Any, samples: Any) -> None:
    engine = make()
    plan, _, _ = build(engine)
    profile = profiling.profile_plan("int8", plan, samples(engine), 1, 3)  # the first time loads kernels
    before = free_memory()
    for _ in range(5):
        assert profiling.profile_plan("int8", plan, samples(engine), 1, 3).milliseconds.keys() == (
            profile.milliseconds.keys()
        )
    assert before - free_memory() < 32 << 20


def test_what_cannot_be_captured_is_enqueued(
    make: Any, build: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(overrides=("precision.default=fp32",))
    plan, _, _ = build(engine)

    def refuse(*_: object) -> None:
        raise NotCaptured("no graphs today")

    monkeypatch.setattr(cudart.Cudart, "_captured", refuse)
    found = timing.time_plans({"a": plan, "b": plan}, samples(engine), 2, 40)
    assert (found.method, found.not_captured) == ("enqueue", "no graphs today")
    assert [len(times) for times in found.milliseconds.values()] == [40, 40]
    assert all(time > 0 for times in found.milliseconds.values() for time in times)


def test_a_capture_that_breaks_leaves_a_stream_that_works(make: Any, build: Any, samples: Any) -> None:
    """What is forbidden while capturing: to wait for the stream."""
    cuda = cudart.load()
    with cuda.stream() as stream, pytest.raises(NotCaptured, match="cudaStreamSynchronize answers"):
        cuda.graph(stream, lambda: cuda.synchronize(stream)).__enter__()
    engine = make(overrides=("precision.default=fp32",))
    plan, _, _ = build(engine)
    assert timing.time_plans({"a": plan}, samples(engine), 1, 3).method == "graph"


def test_memory_is_given_back(make: Any, build: Any, samples: Any) -> None:
    engine = make(overrides=("precision.default=fp32",))
    plan, _, _ = build(engine)
    timing.time_plans({"a": plan}, samples(engine), 1, 3)  # the first time loads kernels, which stay
    before = free_memory()
    for _ in range(5):
        timing.time_plans({"a": plan, "b": plan}, samples(engine), 1, 3)
    assert before - free_memory() < 32 << 20
