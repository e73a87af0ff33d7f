"""JUnit XML: what a CI server counts, and that any name survives."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtbuild.report.junit import junit

ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"name", "classname", "time"},
    "properties": set(),
    "property": {"name", "value"},
    "failure": {"type", "message"},
    "system-out": set(),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"failure", "system-out"},
}


def read(document):
    """The file as a CI server reads it, held against Jenkins' junit-10.xsd."""
    text = junit(document)
    root = ET.fromstring(text.encode())
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for suite in (root, *root):
        cases = list(suite.iter("testcase"))
        assert int(suite.get("tests")) == len(cases)
        assert int(suite.get("failures")) == sum(case.find("failure") is not None for case in cases)
    for suite in root:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    return root


def cases(root, kind):
    return {
        case.get("name"): case for case in root.iter("testcase") if case.get("classname").endswith(f".{kind}")
    }


def failed(case):
    return case.find("failure") is not None


def test_every_check_is_a_case(document):
    document["checks"][0] |= {"passed": False, "seen": "y", "wanted": "y, z"}
    found = cases(read(document), "gate")
    assert list(found) == [check["name"] for check in document["checks"]]
    (failing,) = (case for case in found.values() if failed(case))
    assert failing.get("name") == document["checks"][0]["name"]
    assert failing.find("failure").get("message") == "seen: y; wanted: y, z"


def test_a_diverged_layer_is_a_diagnosis(document):
    first, second = document["layers"][:2]
    first["difference"] |= {"sqnr_db": 12.5, "max_abs": 0.5}
    second["difference"] |= {"sqnr_db": 20.0, "max_abs": 0.5}
    for row in document["layers"][2:]:
        row["difference"] |= {"sqnr_db": None, "max_abs": 0.0}
    found = cases(read(document), "layers")
    assert list(found) == [first["tensor"]]
    assert not failed(found["c1"])
    said = found["c1"].findtext("system-out")
    assert "diagnosis, not a failure: below 20 dB" in said
    assert "node first (Conv), fp32: rule first: narrow <b>first</b> block" in said
    assert "sqnr_db: 12.5" in said


def test_what_outputs_are_off_is_for_the_gates_checks(document):
    document["outputs"][0]["difference"] |= {"sqnr_db": 5.0, "max_abs": 0.5}
    assert cases(read(document), "outputs") == {}


@pytest.mark.parametrize("kind", ["layers", "outputs"])
def test_what_fails_by_itself_fails(document, kind):
    row = document[kind][-1]
    row |= {"difference": None, "problem": "the candidate does not have this tensor (sample 0:1)"}
    failing = cases(read(document), kind)[row["tensor"]]
    assert failing.find("failure").get("message") == (
        "not compared: the candidate does not have this tensor (sample 0:1)"
    )


def test_nan_fails(document):
    document["layers"][1]["difference"] |= {"nonfinite_unmatched": 3, "sqnr_db": 90.0, "max_abs": 0.0}
    failing = [case for case in cases(read(document), "layers").values() if failed(case)]
    assert [case.get("name") for case in failing] == [document["layers"][1]["tensor"]]


def test_it_says_what_ran(document):
    found = {prop.get("name"): prop.get("value") for prop in read(document)[0].iter("property")}
    assert found["build"] == document["build"]
    assert found["model.sha256"] == document["model"]["sha256"]
    assert found["package.onnxruntime"] == document["environment"]["packages"]["onnxruntime"]
    assert "None" not in found.values()


def test_same_document_same_bytes(document):
    assert junit(document) == junit(document)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_any_text_is_kept_or_shown_as_python_shows_it(document, text):
    """XML has no way to say most control characters; line ends become spaces in attributes of other tools."""
    document["checks"][0] |= {"name": text, "passed": False, "seen": text}
    document["engine"] = text
    case = next(read(document).iter("testcase"))
    legal = "[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    shown = "".join(c if re.fullmatch(legal, c) else ascii(c)[1:-1] for c in text)
    assert case.get("name") == shown
