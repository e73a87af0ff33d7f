import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import calibrators

READ_ONLY = "import calibrators.histogram as h, numpy; x = h.Histogram(); x.update(numpy.ones(3, 'f')); print(x.count)"


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare to mount a read-only file system")
def test_works_where_no_cache_folder_can_be_written(tmp_path: Path) -> None:
    """As in a container with a read-only root: the package folder and the home are not writable."""
    copy = tmp_path / "calibrators"
    shutil.copytree(Path(calibrators.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    script = f'mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec "$0" -c "$1"'
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, READ_ONLY],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in result.stderr:
        pytest.skip(f"cannot make a read-only file system: {result.stderr.strip()}")
    assert result.stdout.strip() == "3", result.stderr
