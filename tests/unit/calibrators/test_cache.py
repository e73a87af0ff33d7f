from __future__ import annotations

import numpy as np
import pytest

from calibrators.cache import (
    CacheHeader,
    cache_header,
    parse_cache_header,
    read_cache,
    require_cache_header,
    write_cache,
)
from calibrators.errors import TableError

HEADER = "TRT-8501-EntropyCalibration2"


class TestHeader:
    @pytest.mark.parametrize(
        ("version", "number"),
        [  # as TensorRT writes it in caches, and trtexec in its logs
            ("7.2.2.3", "7202"),
            ("8.4.1.5", "8401"),
            ("8.5.1.7", "8501"),
            ("8.6.1.6", "8601"),
            ("8.6.2", "8602"),
            ("9.1.0.4", "9100"),
            ("10.3.0", "100300"),
            ("10.13.3.9", "101303"),
            ("10.14.1.48", "101401"),
        ],
    )
    def test_of_a_version(self, version, number):
        assert cache_header(version) == f"TRT-{number}-EntropyCalibration2"
        assert cache_header(version, "MinMaxCalibration") == f"TRT-{number}-MinMaxCalibration"

    @pytest.mark.parametrize("version", ["", "8.5", "ten", "8.5.1.7.2", "8.5.1 "])
    def test_of_no_version(self, version):
        with pytest.raises(TableError, match=r"expected major\.minor\.patch"):
            cache_header(version)

    def test_of_no_algorithm(self):
        with pytest.raises(
            TableError, match="algorithm 'minmax': expected one of EntropyCalibration2, MinMax"
        ):
            cache_header("8.5.1", "minmax")

    @pytest.mark.parametrize(
        "text", [HEADER, f"{HEADER}\n", f"{HEADER}\r\nx: 3c010a14\r\n", f"{HEADER}\nx: oops"]
    )
    def test_is_read_from_the_first_line(self, text):
        assert parse_cache_header(text) == CacheHeader("8501", "EntropyCalibration2")
        assert str(parse_cache_header(text)) == HEADER

    @pytest.mark.parametrize("text", ["", "x: 3f800000\n", "TRT-8501\n", f"\n{HEADER}", f" {HEADER}"])
    def test_missing(self, text):
        with pytest.raises(TableError, match=r"line 1: .* is no header such as 'TRT-8501"):
            parse_cache_header(text)


class TestRequire:
    def test_the_same_version_and_algorithm(self):
        require_cache_header(f"{HEADER}\nx: 3c010a14\n", "8.5.1.7", "EntropyCalibration2")

    @pytest.mark.parametrize(
        ("version", "algorithm", "expected"),
        [
            ("8.6.1.6", "EntropyCalibration2", "TRT-8601-EntropyCalibration2"),
            ("8.5.1.7", "MinMaxCalibration", "TRT-8501-MinMaxCalibration"),
        ],
    )
    def test_says_what_was_seen_and_what_this_build_takes(self, version, algorithm, expected):
        with pytest.raises(TableError) as error:
            require_cache_header(f"{HEADER}\nx: 3c010a14\n", version, algorithm)
        assert str(error.value).startswith(
            f"the calibration cache is {HEADER}, this build takes {expected} (TensorRT {version}): "
        )


class TestScales:
    def test_as_tensorrt_writes_them(self):
        text = f"{HEADER}\ninput: 3caa54fc\n(Unnamed Layer* 64) [Shuffle]_output: 0\n366: 0\n395: 800000\n"
        header, scales = read_cache(text)
        assert str(header) == HEADER
        assert scales == {
            "input": np.uint32(0x3CAA54FC).view(np.float32),
            "(Unnamed Layer* 64) [Shuffle]_output": 0,
            "366": 0,
            "395": np.finfo(np.float32).tiny,
        }

    def test_come_back_bit_for_bit(self):
        scales = {"b:0": np.float32(1 / 3), "a": np.finfo(np.float32).tiny, "c": np.finfo(np.float32).max}
        text = write_cache(HEADER, scales)
        assert text.splitlines()[1:] == ["a: 00800000", "b:0: 3eaaaaab", "c: 7f7fffff"]
        assert read_cache(text)[1] == scales

    def test_a_file_that_was_cut_off(self):
        whole = f"{HEADER}\nx: 3c010a14\ny: 3c010a14\n"
        assert len(read_cache(whole[:-1])[1]) == 2
        for left_off in range(2, 12):
            with pytest.raises(TableError, match="line 3: "):
                read_cache(whole[:-left_off])
