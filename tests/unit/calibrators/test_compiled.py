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


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare to mount a read-only file system")
def test_works_where_no_cache_folder_can_be_written(tmp_path: Path) -> None:
    """As in a container with a read-only root: neither the package's folder nor the home is writable."""
    package = Path(calibrators.__file__).parent
    shutil.copytree(package, tmp_path / "calibrators", ignore=shutil.ignore_patterns("__pycache__"))
    read_only = (
        f'mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec "$0" -c "$1"'
    )
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", read_only]
    home = {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    command = [*namespace, sys.executable, COUNT]
    result = subprocess.run(
        command, env={**os.environ, **home}, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip(f"cannot mount a read-only file system here: {result.stderr.strip()}")
    assert result.stdout.strip() == "3", result.stderr
