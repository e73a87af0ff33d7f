import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

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
