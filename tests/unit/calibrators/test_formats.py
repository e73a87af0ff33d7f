from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from safetensors.numpy import save_file

from calibrators.errors import ShardError
from calibrators.formats import Header, read_arrays, read_headers

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header_only(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_all(folder: Path) -> list[Path]:
    paths = [folder / "a.npy", folder / "b.npz", folder / "c.safetensors", folder / "d.npz"]
    np.save(paths[0], X)
    np.savez(paths[1], x=X)
    save_file({"x": X}, paths[2])
    np.savez_compressed(paths[3], x=X)
    return paths


def test_every_format_gives_the_same(tmp_path: Path):
    for path in write_all(tmp_path):
        assert read_headers(path, "x") == {"x": Header("float32", (3, 4))}
        arrays = read_arrays(path, "x")
        assert list(arrays) == ["x"]
        np.testing.assert_array_equal(arrays["x"], X)


def test_an_npy_is_mapped_not_read(tmp_path: Path):
    assert isinstance(read_arrays(write_all(tmp_path)[0], "x")["x"], np.memmap)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]
)
def test_dtypes_are_named_as_numpy_does(tmp_path: Path, dtype):
    array = np.ones((2, 3), dtype)
    np.save(tmp_path / "a.npy", array)
    save_file({"x": array}, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        assert read_headers(path, "x") == {"x": Header(dtype, (2, 3))}


def test_a_byte_swapped_array_is_told_apart(tmp_path: Path):
    np.save(tmp_path / "a.npy", X.astype(">f4"))
    assert read_headers(tmp_path / "a.npy", "x")["x"].dtype == ">f4"


def test_headers_of_a_large_member_cost_no_data(tmp_path: Path):
    """The data is no valid deflate stream, so that reading it would fail."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((1000, 1000), np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert read_headers(path, "x")["x"].shape == (1000, 1000)
    with pytest.raises(ShardError, match=r"a\.npz is damaged"):
        read_arrays(path, "x")


def test_a_scalar(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.float32(2.5))
    assert read_headers(tmp_path / "a.npy", "x")["x"].shape == ()
    assert read_arrays(tmp_path / "a.npy", "x")["x"] == 2.5


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickled_objects_are_refused(tmp_path: Path, suffix):
    path = tmp_path / f"a{suffix}"
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(path, objects) if suffix == ".npy" else np.savez(path, x=objects)
    with pytest.raises(ShardError, match=r"a\.np.*holds pickled Python objects"):
        read_headers(path, "x")
    with pytest.raises(ShardError, match="damaged"):
        read_arrays(path, "x")


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.6, 0.95])
def test_truncated_files(tmp_path: Path, share):
    for path in write_all(tmp_path):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ShardError, match=rf"{path.name}.*(damaged|truncated|cannot be read)"):
            read_headers(path, "x")


def test_a_truncated_npy_says_so_from_its_header(tmp_path: Path):
    path = write_all(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"a\.npy is truncated: its header promises 48 bytes"):
        read_headers(path, "x")


def test_a_zip_bomb(tmp_path: Path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy_header_only((2**20, 2**20)))
    with pytest.raises(ShardError, match=r"a\.npz: 'x\.npy' promises 4096 GiB.*limit is 64 GiB"):
        read_headers(path, "x")


def test_a_negative_length(tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(npy_header_only((-3, 4)))
    with pytest.raises(ShardError, match=r"a\.npy has a negative length"):
        read_headers(tmp_path / "a.npy", "x")


def test_members_that_are_no_arrays_or_twice_there(tmp_path: Path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "hello")
    with pytest.raises(ShardError, match=r"'README' is not an .npy array"):
        read_headers(path, "x")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy_bytes(X))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy_bytes(X))
    with pytest.raises(ShardError, match=r"'x\.npy' is there twice"):
        read_headers(path, "x")


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_structured_arrays(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros(2, dtype=[("\u0394", "<f4")]))
    with pytest.raises(ShardError, match=r"npy format \(3, 0\) is for structured arrays"):
        read_headers(tmp_path / "a.npy", "x")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_what_is_no_readable_file(tmp_path: Path, suffix):
    missing, folder = tmp_path / f"missing{suffix}", tmp_path / f"folder{suffix}"
    folder.mkdir()
    for path in (missing, folder):
        with pytest.raises(ShardError, match=rf"{path.name} cannot be read"):
            read_headers(path, "x")
        with pytest.raises(ShardError, match=rf"{path.name} cannot be read"):
            read_arrays(path, "x")


@pytest.mark.filterwarnings("ignore")
@given(which=st.integers(0, 3), place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_a_damaged_byte_gives_a_shard_error_or_an_array(tmp_path: Path, which, place, value):
    path = write_all(tmp_path)[which]
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] = value
    path.write_bytes(content)
    message = path.name
    try:
        read_headers(path, "x")
        read_arrays(path, "x")
    except ShardError as exc:
        message = str(exc)
    assert path.name in message
    assert "\n" not in message
