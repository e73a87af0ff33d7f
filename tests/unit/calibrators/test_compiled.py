import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import calibrators

COUNT = """
import numpy
from calibrators.histogram import Histogram

histogram = Histogram()
histogram.update(numpy.ones(3, numpy.float32))
print(histogram.count)
"""


def copied_to(folder: Path) -> None:
    package = Path(calibrators.__file__).parent
    shutil.copytree(package, folder / "calibrators", ignore=shutil.ignore_patterns("__pycache__"))


def test_leaves_nothing_in_the_package(tmp_path: Path) -> None:
    """What numba wrote there would outlive an uninstall, and then shadow the next install."""
    copied_to(tmp_path / "site")
    places = {"PYTHONPATH": str(tmp_path / "site"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-B", "-c", COUNT]
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    subprocess.run(command, env={**inherited, **places}, cwd=tmp_path, check=True)
    assert not list((tmp_path / "site").rglob("__pycache__"))
    assert list((tmp_path / "cache" / "trtbuild").rglob("*.nbi"))


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare to mount a read-only file system")
def test_works_where_no_cache_folder_can_be_written(tmp_path: Path) -> None:
    """As in a container with a read-only root: neither the package's folder nor the home is writable."""
    copied_to(tmp_path)
    read_only = (
        f'mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec "$0" -c "$1"'
    )
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", read_only]
    home = {
        "PYTHONPATH": str(tmp_path),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": "",
    }

    command = [*namespace, sys.executable, COUNT]
    result = subprocess.run(
        command, env={**os.environ, **home}, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip(f"cannot mount a read-only file system here: {result.stderr.strip()}")
    assert result.stdout.strip() == "3", result.stderr
