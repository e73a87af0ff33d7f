"""The recipe's [tensorrt] section on a builder's configuration, version by version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trtbuild.errors import InputError, MachineError
from trtbuild.recipe import parse
from trtbuild.targets.trt.compile import open_builder
from trtbuild.targets.trt.config import configure
from trtbuild.targets.trt.log import open_log


@pytest.fixture
def configured(tensorrt: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """The double of a version, and what `configure` makes of these keys of [tensorrt]."""

    def make(version: str, double: dict[str, Any] | None = None, **keys: Any) -> tuple[Any, Any]:
        trt = tensorrt(version, **(double or {}))
        section = parse({"tensorrt": keys}, "test").tensorrt
        return trt, configure(trt, open_builder(trt, open_log(trt)), section)

    return make


@pytest.mark.parametrize("version", ["8.5.1.7", "8.6.1", "10.3.0", "10.13.0", "11.0.0"])
def test_what_is_not_asked_for_stays_as_tensorrt_has_it(version: str, configured: Callable[..., Any]) -> None:
    trt, config = configured(version)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert config.get_flag(trt.BuilderFlag.TF32)
    fresh = trt.Builder(trt.Logger()).create_builder_config()
    assert config.get_tactic_sources() == fresh.get_tactic_sources()
    workspace = trt.MemoryPoolType.WORKSPACE
    assert config.get_memory_pool_limit(workspace) == fresh.get_memory_pool_limit(workspace)


def test_tf32_off(configured: Callable[..., Any]) -> None:
    trt, config = configured("10.3.0", tf32=False)
    assert not config.get_flag(trt.BuilderFlag.TF32)


def test_workspace_in_gib(configured: Callable[..., Any]) -> None:
    trt, config = configured("8.5.1.7", workspace_gb=1.5)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 3 << 29


def test_optimization_level(configured: Callable[..., Any]) -> None:
    assert configured("8.6.1", optimization_level=5)[1].builder_optimization_level == 5
    with pytest.raises(
        InputError, match=r"\[tensorrt\] optimization_level: TensorRT 8.5.1.7 does not have it"
    ):
        configured("8.5.1.7", optimization_level=5)


def test_tactic_sources_from_the_recipe(configured: Callable[..., Any]) -> None:
    trt, config = configured("8.5.1.7", tactic_sources=["CUBLAS", "jit_convolutions"])
    sources = trt.TacticSource
    assert config.get_tactic_sources() == 1 << int(sources.CUBLAS) | 1 << int(sources.JIT_CONVOLUTIONS)
    assert configured("8.5.1.7", tactic_sources="none")[1].get_tactic_sources() == 0


@pytest.mark.parametrize(("said", "bits"), [("none", 0), ("CUBLAS", 1), ("cublas, cudnn", 5)])
def test_the_environment_goes_before_the_recipe(
    said: str, bits: int, configured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    configured("8.5.1.7")
    monkeypatch.setenv("TRTBUILD_TACTIC_SOURCES", said)
    # the fixture that installs the double takes the variable away: configure directly
    import tensorrt as trt  # type: ignore[import-not-found]

    section = parse({"tensorrt": {"tactic_sources": ["EDGE_MASK_CONVOLUTIONS"]}}, "test").tensorrt
    config = configure(trt, open_builder(trt, open_log(trt)), section)
    assert config.get_tactic_sources() == bits


def test_an_unknown_tactic_source_names_the_nearest(configured: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"tactic source 'CUBLASS' is not one of TensorRT 8.5.1.7.*CUBLAS"):
        configured("8.5.1.7", tactic_sources=["CUBLASS"])


def test_engines_for_other_gpus_and_versions(configured: Callable[..., Any]) -> None:
    trt, config = configured("10.3.0", hardware_compatibility="ampere_plus", version_compatible=True)
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert config.get_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME), "host code would have to be allowed to run"
    for key, value in (("hardware_compatibility", "ampere_plus"), ("version_compatible", True)):
        with pytest.raises(
            InputError, match=rf"\[tensorrt\] {key}.*8.5.1.7 does not have it; remove the key"
        ):
            configured("8.5.1.7", **{key: value})


def test_a_compatibility_level_that_came_later(configured: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r'hardware_compatibility = "same_compute_capability".*8\.6\.1'):
        configured("8.6.1", hardware_compatibility="same_compute_capability")


def test_dla(configured: Callable[..., Any]) -> None:
    trt, config = configured("8.6.1", {"dla_cores": 2}, dla_core=1)
    assert (config.default_device_type, config.DLA_core) == (trt.DeviceType.DLA, 1)
    assert config.get_flag(trt.BuilderFlag.GPU_FALLBACK)
    trt, config = configured("8.6.1", {"dla_cores": 2}, dla_core=0, gpu_fallback=False)
    assert not config.get_flag(trt.BuilderFlag.GPU_FALLBACK)
    with pytest.raises(MachineError, match=r"dla_core = 0, but this machine has 0 DLA cores"):
        configured("8.6.1", dla_core=0)
