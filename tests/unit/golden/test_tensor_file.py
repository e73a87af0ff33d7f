"""Files of tensors: safetensors' own reader reads them, and what is damaged is never handed out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trtbuild.errors import InputError
from trtbuild.golden import tensor_file

RNG = np.random.default_rng(3)
TENSORS = {
    "half": RNG.standard_normal((3, 5)).astype(np.float16),  # an odd number of bytes before the floats
    "float": RNG.standard_normal((2, 3, 4)).astype(np.float32),
    "double": RNG.standard_normal(7),
    "scalar": np.float32(2.5).reshape(()),
    "empty": np.zeros((0, 4), np.float32),
    "inf": np.array([np.inf, -np.inf, np.nan, -0.0], np.float32),
    "flags": np.array([True, False, True]),
    "turned": RNG.standard_normal((4, 6)).astype(np.float32).T,
    "a/b:c é": np.arange(5),
}


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def path(tmp_path, pool):
    path = tmp_path / "some.safetensors"
    with path.open("wb") as stream:
        tensor_file.write(stream, TENSORS, {"gone"}, pool)
    return path


def test_what_was_written_is_read(path, pool):
    found = tensor_file.mapped(path, pool, TENSORS).tensors
    assert found.keys() == TENSORS.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape) == (TENSORS[name].dtype, TENSORS[name].shape)
        assert array.tobytes() == TENSORS[name].tobytes()
        assert array.flags.aligned
        assert not array.flags.writeable


def test_it_is_not_larger_than_told(path):
    told = tensor_file.size_of(TENSORS, [*TENSORS, "gone"])
    assert path.stat().st_size <= told <= path.stat().st_size + 200 * len(TENSORS)


def test_only_what_is_wanted(path, pool):
    found = tensor_file.mapped(path, pool, {"float", "flags", "x"})
    assert found.tensors.keys() == {"float", "flags"}
    assert found.absent == {"gone"}


def test_nothing_is_copied(path, pool):
    base = tensor_file.mapped(path, pool, TENSORS).tensors["float"]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_safetensors_reads_it(path):
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, array in found.items():
        assert array.tobytes() == TENSORS[name].tobytes()


def test_no_tensors(tmp_path, pool):
    path = tmp_path / "none"
    with path.open("wb") as stream:
        tensor_file.write(stream, {}, (), pool)
    assert tensor_file.mapped(path, pool, TENSORS) == ({}, set())


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_a_truncated_file(path, pool, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"some\.safetensors is damaged .*delete it"):
        tensor_file.mapped(path, pool, TENSORS)


def test_every_changed_byte_of_the_data_is_seen(path, pool):
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match="checksum of"):
            tensor_file.mapped(path, pool, TENSORS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"shape": [2, 3, 4]', b'"shape": [4, 3, 2]'),
        (b'"shape": [2, 3, 4]', b'"shape": [2, 3, 5]'),
        (b'"F32", "shape": [2, 3, 4]', b'"I32", "shape": [2, 3, 4]'),
        (b'"F32", "shape": [2, 3, 4]', b'"F99", "shape": [2, 3, 4]'),
        (b"trtbuild.crc32", b"trtbuild.crc33"),
        (b'"dtype"', b'"dtypo"'),
    ],
)
def test_a_changed_header(path, pool, old, new):
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(InputError, match=r"some\.safetensors is damaged"):
        tensor_file.mapped(path, pool, TENSORS)


def test_a_header_that_promises_a_terabyte(path, pool):
    whole = path.read_bytes()
    path.write_bytes((1 << 40).to_bytes(8, "little") + whole[8:])
    with pytest.raises(InputError, match="is damaged"):
        tensor_file.mapped(path, pool, TENSORS)


def test_a_file_of_somebody_else(tmp_path, pool):
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "theirs")
    with pytest.raises(InputError, match="is damaged"):
        tensor_file.mapped(tmp_path / "theirs", pool, "a")


def test_a_folder_in_its_place(tmp_path, pool):
    with pytest.raises(InputError, match=r"cannot be read .*delete it"):
        tensor_file.mapped(tmp_path, pool, "a")


def test_a_dtype_that_the_format_lacks(tmp_path, pool):
    with (tmp_path / "x").open("wb") as stream, pytest.raises(InputError, match="'c' of dtype complex64"):
        tensor_file.write(stream, {"c": np.ones(2, np.complex64)}, (), pool)


def test_what_can_be_stored():
    assert tensor_file.storable(np.ones(1, np.float16))
    assert not tensor_file.storable(np.ones(1, np.complex64))
    assert not tensor_file.storable(np.array(["text"]))
    assert not tensor_file.storable(np.ones(1, ">f4"))
