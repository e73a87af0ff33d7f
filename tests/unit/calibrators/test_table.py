from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrators.errors import TableError
from calibrators.scale import scale_of
from calibrators.table import Range, RangeTable, TableKey

KEY = TableKey(model="a" * 64, shards="b" * 64, method="percentile:99.99")
HEADER = "TRT-8501-EntropyCalibration2"


def a_table() -> RangeTable:
    ranges = {
        "y:0": Range(0.1, "minmax"),
        "x": Range(1 / 3, "percentile:99.99"),
        "zero": Range(0.0, "minmax"),
    }
    return RangeTable(ranges, KEY, samples=16)


def a_document() -> dict:
    return json.loads(json.dumps(a_table().to_dict()))


class TestRange:
    @pytest.mark.parametrize("amax", [-1e-9, float("nan"), float("inf")])
    def test_must_be_finite_and_not_negative(self, amax):
        with pytest.raises(TableError, match="0 or larger"):
            Range(amax, "minmax")


class TestKey:
    def test_digest_changes_with_every_part(self):
        keys = [KEY, TableKey("x", KEY.shards, KEY.method), TableKey(KEY.model, "x", KEY.method)]
        keys += [TableKey(KEY.model, KEY.shards, "x"), TableKey("ab", "c", "d"), TableKey("a", "bc", "d")]
        digests = {key.digest() for key in keys}
        assert len(digests) == len(keys)
        assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)
        assert KEY.digest() == TableKey(KEY.model, KEY.shards, KEY.method).digest()


class TestScale:
    def test_of_a_tensor(self):
        assert a_table().scale("x") == scale_of(1 / 3)

    def test_of_a_tensor_without_a_range_names_it_and_the_nearest(self):
        with pytest.raises(TableError, match=r"no range for tensor 'y:1' among 3 \(nearest: 'y:0'\)"):
            a_table().scale("y:1")


class TestFile:
    @pytest.mark.parametrize("key", [KEY, None])
    def test_comes_back_equal(self, tmp_path: Path, key):
        table = RangeTable(a_table().ranges, key, 3)
        table.save(tmp_path / "ranges.json")
        assert RangeTable.load(tmp_path / "ranges.json") == table

    @given(amax=st.floats(0, allow_nan=False, allow_infinity=False))
    def test_every_amax_comes_back_exactly(self, amax):
        table = RangeTable({"x": Range(amax, "m")}, None, 1)
        assert RangeTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table

    def test_text_is_sorted_and_versioned(self, tmp_path: Path):
        a_table().save(tmp_path / "ranges.json")
        document = json.loads((tmp_path / "ranges.json").read_text())
        assert document["schema_version"] == 1
        assert list(document["ranges"]) == ["x", "y:0", "zero"]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, monkeypatch, step):
        path = tmp_path / "ranges.json"
        a_table().save(path)

        def full_disk(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, step, full_disk)
        with pytest.raises(TableError, match=r"ranges\.json cannot be written: No space left"):
            RangeTable({}, None, 0).save(path)
        assert RangeTable.load(path) == a_table()
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_that_is_missing(self, tmp_path: Path):
        with pytest.raises(TableError, match="cannot be written: No such file"):
            a_table().save(tmp_path / "no" / "ranges.json")

    def test_keeps_to_the_umask(self, tmp_path: Path):
        a_table().save(tmp_path / "ranges.json")
        (tmp_path / "plain").write_text("")
        assert (tmp_path / "ranges.json").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_a_missing_file(self, tmp_path: Path):
        with pytest.raises(TableError, match=r"ranges\.json cannot be read: No such file.*calibrate first"):
            RangeTable.load(tmp_path / "ranges.json")

    @pytest.mark.parametrize("text", [None, "", "[" * 100_000, "\udcff"])
    def test_a_file_that_is_no_whole_json(self, tmp_path: Path, text):
        path = tmp_path / "ranges.json"
        a_table().save(path)
        text = path.read_text()[:-20] if text is None else text
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(TableError, match=r"ranges\.json is no whole JSON"):
            RangeTable.load(path)

    def test_a_malformed_file_is_named(self, tmp_path: Path):
        path = tmp_path / "ranges.json"
        path.write_text('{"schema_version": 2}')
        with pytest.raises(TableError, match=r"ranges\.json: schema_version 2: expected 1"):
            RangeTable.load(path)


MALFORMED = {
    "another version": (lambda d: d.update(schema_version=2), "schema_version 2: expected 1"),
    "no version": (lambda d: d.pop("schema_version"), "schema_version None"),
    "an unknown key": (lambda d: d.update(extra=1), "the table has .*'extra'"),
    "a missing key": (lambda d: d.pop("samples"), "expected exactly .*'samples'"),
    "an unknown key in a range": (lambda d: d["ranges"]["x"].update(scale=1), "tensor 'x' has .*'scale'"),
    "an unknown key in the key": (lambda d: d["key"].update(date="1"), "'key' has .*'date'"),
    "a number in the key": (lambda d: d["key"].update(model=1), "expected text values"),
    "a key that is a list": (lambda d: d.update(key=[]), "'key' has list"),
    "ranges as a list": (lambda d: d.update(ranges=[]), "'ranges' must be an object"),
    "a range that is a number": (lambda d: d["ranges"].update(x=1.0), "tensor 'x' has float"),
    "a negative amax": (lambda d: d["ranges"]["x"].update(amax=-1.0), "tensor 'x': amax -1.0"),
    "a NaN amax": (lambda d: d["ranges"]["x"].update(amax=float("nan")), "tensor 'x': amax nan"),
    "an amax too long": (lambda d: d["ranges"]["x"].update(amax=10**400), "tensor 'x': int too large"),
    "a text amax": (lambda d: d["ranges"]["x"].update(amax="1"), "expected a number and a text"),
    "a bool amax": (lambda d: d["ranges"]["x"].update(amax=True), "expected a number and a text"),
    "a fraction of samples": (lambda d: d.update(samples=1.5), "samples 1.5"),
    "negative samples": (lambda d: d.update(samples=-1), "samples -1"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_document(case):
    change, message = MALFORMED[case]
    document = a_document()
    change(document)
    with pytest.raises(TableError, match=message):
        RangeTable.from_dict(document)


def test_a_document_that_is_no_object():
    with pytest.raises(TableError, match="schema_version None"):
        RangeTable.from_dict([])


class TestTensorrtCache:
    def test_text_as_tensorrt_writes_it(self):
        table = RangeTable({"b:0": Range(127.0, "m"), "a": Range(254.0, "m")}, None, 1)
        assert table.to_tensorrt_cache(HEADER) == f"{HEADER}\na: 40000000\nb:0: 3f800000\n"

    def test_a_name_may_hold_colons_and_spaces(self):
        header, table = RangeTable.from_tensorrt_cache(
            f"{HEADER}\n(Unnamed Layer* 0) [Conv]:out:0: 3c010a14\r\n"
        )
        assert header == HEADER
        assert table.scale("(Unnamed Layer* 0) [Conv]:out:0") == np.uint32(0x3C010A14).view(np.float32)
        assert (table.key, table.samples) == (None, 0)

    def test_a_scale_of_zero_as_tensorrt_writes_it(self):
        _, table = RangeTable.from_tensorrt_cache(f"{HEADER}\nzero: 0\nx: 3f800000\n")
        assert table.ranges == {"zero": Range(0.0, "tensorrt-cache"), "x": Range(127.0, "tensorrt-cache")}

    @given(bits=st.lists(st.integers(0x00800000, 0x7F7FFFFF), min_size=1, max_size=30))
    def test_scale_bits_survive_exactly(self, bits):
        text = HEADER + "\n" + "".join(f"t{i:02d}: {b:08x}\n" for i, b in enumerate(bits))
        header, table = RangeTable.from_tensorrt_cache(text)
        assert table.to_tensorrt_cache(header) == text
        again = RangeTable.from_dict(json.loads(json.dumps(table.to_dict())))
        assert again.to_tensorrt_cache(header) == text

    def test_the_amax_of_a_float32_gives_the_quotient_in_float32(self):
        amax = np.float32(19.15)
        text = RangeTable({"x": Range(float(amax), "m")}, None, 1).to_tensorrt_cache(HEADER)
        assert text.splitlines()[1] == "x: " + struct.pack(">f", amax / np.float32(127)).hex()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("x 3c010a14", "line 3: 'x 3c010a14': expected"),
            ("x: 3c010a140", "line 3: .*expected 'tensor: up to 8 hex digits'"),
            ("x: ", "line 3: .*expected"),
            ("x: -0", "line 3: .*expected"),
            ("x: 3c010a1g", "line 3: .*expected"),
            (": 3c010a14", "line 3: .*expected"),
            ("ok: 3c010a14", "line 3: tensor 'ok' is there twice"),
            ("x: bf800000", "line 3: tensor 'x': scale -1.0"),
            ("x: 7fc00000", "line 3: tensor 'x': scale nan"),
            ("x: 7f800000", "line 3: tensor 'x': scale inf"),
        ],
    )
    def test_a_malformed_line_is_named(self, line, message):
        with pytest.raises(TableError, match=message):
            RangeTable.from_tensorrt_cache(f"{HEADER}\nok: 3f800000\n{line}\n")

    @pytest.mark.parametrize("text", ["", "x: 3f800000\n", "TRT-8510\n", "\n" + HEADER])
    def test_a_missing_header(self, text):
        with pytest.raises(TableError, match=r"line 1: .* is no header"):
            RangeTable.from_tensorrt_cache(text)

    @pytest.mark.parametrize("header", ["", "entropy", HEADER + "\n"])
    def test_writing_under_no_header(self, header):
        with pytest.raises(TableError, match="expected such as 'TRT-8501"):
            a_table().to_tensorrt_cache(header)

    def test_writing_a_name_with_a_line_break(self):
        with pytest.raises(TableError, match="line break in its name"):
            RangeTable({"a\nb": Range(1.0, "m")}, None, 1).to_tensorrt_cache(HEADER)
