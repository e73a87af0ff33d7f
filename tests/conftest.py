import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import calibrators.tensorrt
from tests import gpu_stand_ins
from tests.targets import binding_double
from trtbuild.targets.trt import gpu

ENGINES = Path(__file__).resolve().parents[1] / "engines"


@pytest.fixture(scope="session")
def load() -> Callable[[Path], ModuleType]:
    """Import a file by its path, as trtbuild imports an engine's metric.py."""

    def load_file(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load_file


@pytest.fixture(scope="session")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Copy an engine's committed files to a new folder and run its prepare.py there."""

    def run(name: str, *options: str, needs: tuple[str, ...]) -> Path:
        if missing := [package for package in needs if importlib.util.find_spec(package) is None]:
            pytest.skip(f"{', '.join(missing)} not installed: pip install 'trtbuild[demo]'")
        folder = tmp_path_factory.mktemp(name)
        for file in ("recipe.toml", "prepare.py", "metric.py"):
            shutil.copy(ENGINES / name / file, folder)
        subprocess.run([sys.executable, folder / "prepare.py", *options], check=True, timeout=60)
        return folder

    return run


@pytest.fixture(autouse=True)
def _no_tensorrt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TensorRT is installed, too, only those tests see it that are about it."""
    if not any(map(request.node.get_closest_marker, ("gpu", "tensorrt"))):
        monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Install a double of TensorRT of some version, and of the GPU that it builds on."""
    pytest.importorskip(
        "tensorrt_rtx", reason="the double parses with tensorrt_rtx: pip install 'trtbuild[rtx]'"
    )

    def install(version: str = "8.5.1.7", **behaviour: Any) -> Any:
        double = binding_double.make(version, **behaviour)
        monkeypatch.setitem(sys.modules, "tensorrt", double)
        monkeypatch.setattr(gpu, "_driver", gpu_stand_ins.Driver)
        monkeypatch.setattr(calibrators.tensorrt, "DeviceMemory", gpu_stand_ins.HostMemory)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("TRTBUILD_TACTIC_SOURCES", raising=False)
        return double

    return install
