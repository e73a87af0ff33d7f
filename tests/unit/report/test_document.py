"""The document of a real check: its schema, and that it says what is so."""

import dataclasses
import hashlib
import json

import jsonschema
import pytest

from trtbuild.errors import InputError
from trtbuild.golden.metrics import Histogram
from trtbuild.report.document import FIXED_TIME, compose


def validate(document, schema):
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(document)


def rows(document):
    return {row["tensor"]: row for row in document["layers"]}


def test_it_is_of_its_schema(document, large, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    validate(document, schema)
    validate(large(50), schema)
    assert set(document) == set(schema["properties"]), "every key is documented"


@pytest.mark.parametrize("key", ["passed", "layers", "worst", "environment", "created"])
def test_the_schema_catches_what_is_missing(document, schema, key):
    del document[key]
    with pytest.raises(jsonschema.ValidationError):
        validate(document, schema)


def test_a_verdict_of_a_stored_golden_is_too(checked, schema):
    verdict = dataclasses.replace(checked.verdict, layers=(), first_divergence=None)
    document = compose(dataclasses.replace(checked, verdict=verdict))
    validate(json.loads(json.dumps(document)), schema)
    assert {row["tensor"] for row in document["worst"]} == {"y"}


def test_what_was_there_before_is_unchanged(document, checked):
    """Scripts read these keys of `validate --json`."""
    before = json.loads(json.dumps(checked.verdict.to_dict()))
    for key in before.keys() - {"layers", "outputs"}:
        assert document[key] == before[key]
    for key in ("layers", "outputs"):
        assert [{k: row[k] for k in old} for row, old in zip(document[key], before[key], strict=True)] == (
            before[key]
        )


def test_same_inputs_same_bytes(checked, monkeypatch):
    monkeypatch.setenv(FIXED_TIME, "1700000000")
    first, second = json.dumps(compose(checked)), json.dumps(compose(checked))
    assert first == second
    assert json.loads(first)["created"] == "2023-11-14T22:13:20+00:00"
    assert first == json.dumps(json.loads(first), sort_keys=True)
    monkeypatch.delenv(FIXED_TIME)
    now = compose(checked)
    assert now["created"] > "2024"
    assert {**now, "created": None} == {**json.loads(first), "created": None}


@pytest.mark.parametrize("value", ["today", "", "1e9", "99999999999999999999"])
def test_a_time_that_is_none(checked, monkeypatch, value):
    monkeypatch.setenv(FIXED_TIME, value)
    with pytest.raises(InputError, match=f"SOURCE_DATE_EPOCH={value} is no time"):
        compose(checked)


def test_each_layer_has_its_precision_and_the_reason(document):
    first, second = rows(document)["c1"], document["layers"][2]
    assert (first["precision"], first["built_precision"], first["pinned"]) == ("fp32", "fp32", True)
    assert first["reason"] == "rule first: narrow <b>first</b> block"
    assert (second["precision"], second["built_precision"], second["pinned"]) == ("int8", "int8", False)
    assert second["reason"] == "default"
    assert document["precision"]["rules"] == [
        {"rule": "first", "matched": 1, "effective": 1},
        {"rule": "type:Softmax", "matched": 1, "effective": 0},
    ]


def test_pins_and_what_became_of_them(document, checked):
    (pin,) = document["pins"]
    assert (pin["node"], pin["precision"], pin["state"]) == ("first", "fp32", "held")
    audit = checked.build.manifest["audit"]
    for change, state in (
        ({"lost": [{"node": "first", "wanted": "fp32", "found": "int8"}]}, "lost"),
        ({"removed": ["first"]}, "removed"),
    ):
        manifest = {**checked.build.manifest, "audit": {**audit, **change}}
        other = dataclasses.replace(checked, build=dataclasses.replace(checked.build, manifest=manifest))
        assert compose(other)["pins"][0]["state"] == state


def test_the_worst_come_first_with_the_rule_that_is_missing(document, checked):
    figures = [row["difference"]["sqnr_db"] for row in document["worst"]]
    assert figures == sorted(figures)
    assert 1 < len(figures) <= 10
    (second,) = (row for row in document["worst"] if row["node"].startswith("second"))
    assert second["precision"] == "int8"
    assert second["pin"].startswith('[[pin]]\nname = "second ')
    assert "c1" not in {row["tensor"] for row in document["worst"]}, "equal to the golden"


def test_hashes_are_those_of_the_files(document, checked):
    for key, path in (("model", checked.model.path), ("artifact", checked.build.artifact)):
        assert document[key]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["samples"] == {
        "count": 6,
        "sha256": checked.shards.fingerprint(),
        "drawn": None,
    }
    assert document["environment"]["packages"]["onnxruntime"]
    assert document["environment"]["packages"]["polygraphy"]


def test_histograms_are_kept_of_the_worst_alone(checked, document, schema):
    assert all(sum(row["histogram"]["golden"]) > 0 for row in document["worst"])
    assert not any("histogram" in row for row in document["layers"])
    histogram = Histogram([-1.0, 0.0, 3.0], [1, 5], [2, 4])
    layers = tuple(dataclasses.replace(diff, histogram=histogram) for diff in checked.verdict.layers)
    verdict = dataclasses.replace(checked.verdict, layers=layers)
    drawn = json.loads(json.dumps(compose(dataclasses.replace(checked, verdict=verdict))))
    validate(drawn, schema)
    assert drawn["layers"] == document["layers"]
    assert all(sum(row["histogram"]["golden"]) == pytest.approx(6, rel=1e-3) for row in drawn["worst"])
