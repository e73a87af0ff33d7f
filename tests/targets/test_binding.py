"""Loading TensorRT's Python modules, and what to do where they are missing."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trtbuild.errors import MachineError
from trtbuild.targets.trt import binding

HINTS = {
    "x86_64": "pip install 'trtbuild[tensorrt]'",
    "aarch64": "an SBSA server",
    "Jetson": "sudo apt install python3-libnvinfer",
}


@pytest.mark.parametrize("machine", HINTS)
def test_what_is_missing_is_told_with_the_command_of_the_machine(
    machine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64" if machine == "x86_64" else "aarch64")
    release = tmp_path / "nv_tegra_release"
    monkeypatch.setattr(binding, "TEGRA_RELEASE", release)
    if machine == "Jetson":
        release.write_text("# R36 (release), REVISION: 3.0")
    with pytest.raises(MachineError, match="target tensorrt needs the package tensorrt") as missing:
        binding.load("tensorrt")
    assert HINTS[machine] in str(missing.value)
    assert "\n" not in str(missing.value)


def test_type_stubs_alone_are_no_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They install a folder `tensorrt` that Python imports as an empty package."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").write_text("class Builder: ...")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MachineError, match="the module tensorrt that is installed has no builder"):
        binding.load("tensorrt")


def test_a_broken_installation_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise RuntimeError('a library of another version\\nand more')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MachineError, match=r"\(a library of another version\); pip install"):
        binding.load("tensorrt")


def test_rtx_has_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MachineError, match=r"needs the package tensorrt-rtx .*'trtbuild\[rtx\]'"):
        binding.load("tensorrt_rtx")


@pytest.mark.parametrize(
    ("version", "calibrates", "typed"),
    [("8.5.1.7", True, False), ("8.6.1", True, False), ("10.3.0", True, True), ("11.0.0", False, True)],
)
def test_what_a_version_can_do_is_asked_of_the_module(
    version: str, calibrates: bool, typed: bool, tensorrt: Callable[..., Any]
) -> None:
    double: ModuleType = tensorrt(version)
    loaded = binding.load("tensorrt")
    assert loaded is double
    assert binding.has_calibrators(loaded) == calibrates
    assert binding.strongly_typed(loaded) == typed
