"""Explicit mode of target `tensorrt`: a double that parses with TensorRT-RTX, and builds nothing real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.targets.test_tensorrt_explicit import by_node
from trtbuild.errors import InputError, MachineError
from trtbuild.targets import tensorrt_explicit
from trtbuild.targets.audit import audit
from trtbuild.targets.base import Request, Target
from trtbuild.targets.sides import EngineSide
from trtbuild.targets.tensorrt_explicit import TensorRTExplicit
from trtbuild.targets.trt import binding, gpu, making
from trtbuild.targets.trt.parse import parse

Requests = Callable[..., Request]


@pytest.fixture(params=["10.9.0.34", "11.1.0.2"])
def explicit_tensorrt(request: pytest.FixtureRequest, tensorrt: Callable[..., Any]) -> TensorRTExplicit:
    tensorrt(request.param)
    return TensorRTExplicit("tensorrt")


CONFIGURATIONS = [("int8", "fp32"), ("fp16", "fp32"), ("int8", "fp16")]


@pytest.mark.parametrize(("default", "fallback"), CONFIGURATIONS)
def test_tensorrt_builds_what_tensorrt_rtx_builds(
    default: str,
    fallback: str,
    explicit_tensorrt: TensorRTExplicit,
    rtx: Target,
    any_toy: str,
    request_of: Requests,
    tmp_path: Path,
) -> None:
    request = request_of(any_toy, default, "first:1", fallback=fallback)
    built = explicit_tensorrt.build(request, tmp_path / "tensorrt.plan")
    assert (tmp_path / "tensorrt.plan").stat().st_size > 0
    assert by_node(built) == by_node(rtx.build(request, tmp_path / "rtx.plan"))
    assert audit(request.precisions, built.layers).lost == ()
    assert built.facts["inspected"].startswith(
        "the parsed, strongly typed network; the engine itself was not"
    )


def test_what_tensorrt_is_told(
    tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is strongly typed; the recipe's options are in the configuration, and a timing cache."""
    double = tensorrt("10.9.0.34")
    seen: list[tuple[Any, Any]] = []
    build = double.Builder.build_serialized_network

    def spied(builder: Any, network: Any, config: Any) -> Any:
        seen.append((network, config))
        return build(builder, network, config)

    monkeypatch.setattr(double.Builder, "build_serialized_network", spied)
    request = request_of(
        "gemm", optimization_level=4, workspace_gb=2, tf32=False, timing_cache=str(tmp_path / "timing")
    )
    TensorRTExplicit("tensorrt").build(request, tmp_path / "engine.plan")
    ((network, config),) = seen
    assert network._strongly_typed()
    assert config.builder_optimization_level == 4
    assert config.get_memory_pool_limit(double.MemoryPoolType.WORKSPACE) == 2 << 30
    assert not config.get_flag(double.BuilderFlag.TF32)
    assert not config.get_flag(double.BuilderFlag.INT8)
    assert not config.get_flag(double.BuilderFlag.FP16)
    assert config.num_optimization_profiles == 1
    assert config.progress_monitor is not None
    assert [path.suffix for path in (tmp_path / "timing").iterdir()] == [".cache"]


def test_a_diagnostic_engine_shows_what_it_was_asked_for(
    tensorrt: Callable[..., Any], request_of: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = tensorrt("10.12.0.36")
    shown: list[set[str]] = []
    watched: list[bool] = []

    def build(builder: Any, network: Any, config: Any) -> bytes:
        shown.append({network.get_output(index).name for index in range(network.num_outputs)})
        return b"plan"

    monkeypatch.setattr(double.Builder, "build_serialized_network", build)
    monkeypatch.setattr(
        double.INetworkDefinition,
        "mark_unfused_tensors_as_debug_tensors",
        lambda network: watched.append(True) or True,
    )
    target, request = TensorRTExplicit("tensorrt"), request_of("gemm")
    assert target._make(request).plan == b"plan"
    target._make(request, ["a", "r", "y", "x", "not there"])
    target._make(request, (), unfused=True)
    assert shown == [{"y"}, {"a", "r", "y"}, {"y"}]
    assert watched == [True]


@pytest.mark.parametrize(
    ("options", "native"),
    [({}, False), ({"version_compatible": True}, True), ({"hardware_compatibility": "ampere_plus"}, True)],
)
def test_engines_for_others_have_no_plugins(
    options: dict[str, Any],
    native: bool,
    explicit_tensorrt: TensorRTExplicit,
    request_of: Requests,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: list[dict[str, Any]] = []

    def parsed(*what: Any, **how: Any) -> Any:
        asked.append(how)
        return parse(*what, **how)

    monkeypatch.setattr(tensorrt_explicit, "parse", parsed)
    explicit_tensorrt.build(request_of("gemm", **options), tmp_path / "engine.plan")
    assert asked == [{"typed": True, "native_norm": native}]


def test_the_key_of_a_tensorrt_build(
    explicit_tensorrt: TensorRTExplicit, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm", mode="explicit", optimization_level=3)
    identity = explicit_tensorrt.identity(request.recipe)
    assert identity == json.loads(json.dumps(identity))
    assert identity["target"] == explicit_tensorrt.name == "tensorrt"
    assert identity["mode"] == "explicit"
    assert identity["tensorrt"] in ("10.9.0.34", "11.1.0.2")
    assert identity["gpu"] == "NVIDIA GeForce RTX 4090"
    assert identity["compute_capability"] == "8.9"
    assert identity["options"]["optimization_level"] == 3
    assert identity != explicit_tensorrt.identity(request_of("gemm").recipe)
    built = explicit_tensorrt.build(request, tmp_path / "engine.plan")
    assert built.facts.items() >= identity.items()


def test_on_a_gpu_the_sides_are_engines(
    explicit_tensorrt: TensorRTExplicit, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm")
    for side in (explicit_tensorrt.golden(request, None), explicit_tensorrt.candidate(request, tmp_path)):
        assert isinstance(side, EngineSide)
        assert side.caveat is None
    assert explicit_tensorrt.golden(request, None).name.endswith("FP32)")


def test_the_golden_of_a_model_with_its_own_qdq(
    explicit_tensorrt: TensorRTExplicit, request_of: Requests
) -> None:
    """With the flag INT8 where there is one, without it where there is none."""
    assert making.make_golden(binding.load("tensorrt"), request_of("qat"))


IMPLICIT_ONLY: dict[str, dict[str, Any]] = {
    'mode = "implicit"': {"mode": "implicit"},
    'calibrator = "entropy"': {"calibrator": "entropy"},
    'calibrator = "minmax"': {"calibrator": "minmax"},
    'constraints = "prefer"': {"constraints": "prefer"},
}


@pytest.mark.parametrize("key", IMPLICIT_ONLY)
def test_what_only_implicit_mode_has_is_refused_before_anything_is_built(
    key: str, explicit_tensorrt: TensorRTExplicit, rtx: Target, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm", **IMPLICIT_ONLY[key])
    attempts: list[Callable[[], object]] = [
        lambda: explicit_tensorrt.algorithm(request.recipe),
        lambda: explicit_tensorrt.identity(request.recipe),
        lambda: explicit_tensorrt.build(request, tmp_path / "engine.plan"),
    ]
    for attempt in attempts:
        with pytest.raises(InputError) as refused:
            attempt()
        assert f"[tensorrt] {key} belongs to implicit mode" in str(refused.value)
    assert not (tmp_path / "engine.plan").exists()
    rtx.identity(request.recipe)  # the section is not TensorRT-RTX's


@pytest.mark.parametrize("key", ["auto", "ranges"])
def test_ranges_from_our_table_are_explicit(
    key: str, explicit_tensorrt: TensorRTExplicit, request_of: Requests
) -> None:
    assert explicit_tensorrt.algorithm(request_of("gemm", calibrator=key).recipe) is None


@pytest.mark.parametrize("version", ["8.5.1.7", "8.6.2"])
def test_a_tensorrt_without_strong_typing_is_refused(
    version: str, tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path
) -> None:
    tensorrt(version)
    target, request = TensorRTExplicit("tensorrt"), request_of("gemm")
    attempts: list[Callable[[], object]] = [
        target.require,
        lambda: target.identity(request.recipe),
        lambda: target.layer_types(request.model),
        lambda: target.build(request, tmp_path / "engine.plan"),
    ]
    for attempt in attempts:
        with pytest.raises(MachineError, match=f"this is {version}: use --mode implicit, or pip install"):
            attempt()
    assert not (tmp_path / "engine.plan").exists()


def test_without_a_gpu_tensorrt_is_not_ready(
    explicit_tensorrt: TensorRTExplicit, rtx: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MachineError("no NVIDIA GPU: its driver does not load")

    explicit_tensorrt.require()
    monkeypatch.setattr(gpu, "_driver", missing)
    with pytest.raises(MachineError, match="no NVIDIA GPU"):
        explicit_tensorrt.require()
    rtx.require()


def test_what_tensorrt_warns_of_is_in_the_facts(
    tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = tensorrt("10.9.0.34")

    def build(builder: Any, network: Any, config: Any) -> bytes:
        builder.logger.log(double.ILogger.Severity.WARNING, "subnormal weights")
        return b"plan"

    monkeypatch.setattr(double.Builder, "build_serialized_network", build)
    built = TensorRTExplicit("tensorrt").build(request_of("gemm"), tmp_path / "engine.plan")
    assert built.facts["warnings"] == ["subnormal weights"]
    assert (tmp_path / "engine.plan").read_bytes() == b"plan"


def test_a_failed_build_leaves_no_file(
    tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path
) -> None:
    tensorrt("10.9.0.34", fails="Error Code 1: Cuda Runtime (out of memory)")
    with pytest.raises(MachineError, match="out of memory"):
        TensorRTExplicit("tensorrt").build(request_of("gemm"), tmp_path / "engine.plan")
    assert not (tmp_path / "engine.plan").exists()
