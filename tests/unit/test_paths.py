"""Where a file may be written."""

import os
import re

import pytest

from trtbuild.errors import InputError
from trtbuild.paths import check_writable


def test_over_nothing_and_over_a_file(tmp_path):
    check_writable(tmp_path / "new", "-o")
    (tmp_path / "old").touch()
    check_writable(tmp_path / "old", "-o")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_not_over_a_device(tmp_path):
    """As root, a rename would put a file in its place."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=re.escape(f"-o {tmp_path / 'pipe'} is no regular file")):
        check_writable(tmp_path / "pipe", "-o")


def test_not_over_a_folder_or_into_none(tmp_path):
    with pytest.raises(InputError, match="is a folder; give a file name"):
        check_writable(tmp_path, "-o")
    with pytest.raises(InputError, match="cannot write into"):
        check_writable(tmp_path / "none" / "new", "-o")
