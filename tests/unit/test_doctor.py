"""What this machine can do, from what is really installed on it."""

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys

import pytest

from trtbuild import doctor
from trtbuild.targets.choose import NAMES


def status(name):
    (found,) = [target for target in doctor.diagnose().targets if target.target == name]
    return found


def test_the_machine():
    found = doctor.diagnose()
    assert found.python == platform.python_version()
    assert found.free_gb >= 0
    assert found.packages["numpy"] == importlib.metadata.version("numpy")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["platform"] == platform.platform()


def test_every_target_is_there():
    assert {target.target for target in doctor.diagnose().targets} == set(NAMES) - {"auto"}


def test_onnxruntime_builds_and_runs_everywhere():
    assert (status("onnxruntime").builds, status("onnxruntime").runs) == (True, True)


def test_rtx_as_it_is_here():
    there = importlib.util.find_spec("tensorrt_rtx") is not None
    found = status("tensorrt-rtx")
    assert found.builds == there
    assert ("pip install 'trtbuild[rtx]'" in found.missing) == (not there)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("libcuda.so: cannot open\nmore"), "libcuda.so: cannot open"),
        (OSError(""), "OSError"),
    ],
)
def test_a_package_that_does_not_load_is_told_with_the_command(monkeypatch, error, reason):
    honest = importlib.import_module

    def fail(name, *rest):
        if name == "tensorrt_rtx":
            raise error
        return honest(name, *rest)

    monkeypatch.setattr(importlib, "import_module", fail)
    found = status("tensorrt-rtx")
    assert not found.builds
    assert found.missing is not None
    assert f"({reason})" in found.missing
    assert "pip install 'trtbuild[rtx]'" in found.missing


def test_what_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert set(doctor.diagnose().packages.values()) == {None}
