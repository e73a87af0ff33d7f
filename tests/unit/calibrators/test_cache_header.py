import pytest

from calibrators.errors import TableError
from calibrators.table import cache_header


@pytest.mark.parametrize(
    ("version", "header"),
    [
        ("8.5.1", "TRT-8501-EntropyCalibration2"),
        ("8.6.1.6", "TRT-8601-EntropyCalibration2"),
        ("10.3.0", "TRT-100300-EntropyCalibration2"),
    ],
)
def test_header_carries_the_version_number(version: str, header: str) -> None:
    assert cache_header(version) == header


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(TableError, match=r"major\.minor\.patch"):
        cache_header("ten")
