"""The annotated model: what Netron reads is there, and it is still the model."""

import numpy as np
import onnx
import onnxruntime
import pytest

from trtbuild.model import files
from trtbuild.report.annotate import annotated, save


def notes(node):
    return {entry.key: entry.value for entry in node.metadata_props}


def outputs(model):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    return session.run(None, {"x": x})


@pytest.fixture
def written(checked, document, tmp_path):
    path = tmp_path / "model.annotated.onnx"
    save(annotated(checked, document), path)
    return path


def test_each_node_says_what_it_is(written, document):
    model = onnx.load(written)
    onnx.checker.check_model(str(written), full_check=True)
    by_name = {node.name: node for node in model.graph.node}
    layers = {row["node"]: row for row in document["layers"]}
    assert layers.keys() <= by_name.keys()
    for name, row in layers.items():
        found = notes(by_name[name])
        assert found["trtbuild.precision"] == row["precision"]
        assert found["trtbuild.reason"] == row["reason"]
        assert "trtbuild.sqnr_db" in found
        assert f"precision {row['precision']}" in by_name[name].doc_string
    first = notes(by_name["first"])
    assert (first["trtbuild.pin"], first["trtbuild.sqnr_db"]) == ("held", "inf")
    assert {entry.key: entry.value for entry in model.metadata_props}["trtbuild.annotated"] == (
        document["build"]
    )


def test_a_node_of_which_nothing_was_compared_has_its_precision(checked, document):
    model = annotated(checked, {**document, "layers": [], "outputs": []})
    for node in model.graph:
        asked = checked.build.manifest["precision"]["nodes"][node.name]
        assert node.metadata_props["trtbuild.precision"] == asked["precision"]
        assert node.metadata_props["trtbuild.reason"] == asked["reason"]


def test_it_still_computes_the_same(written, checked):
    for seen, expected in zip(outputs(written), outputs(str(checked.model.path)), strict=True):
        np.testing.assert_array_equal(seen, expected)


def test_the_opened_model_is_left_alone(checked, document):
    before = files.serialize(checked.model.normalised)
    annotated(checked, document)
    assert files.serialize(checked.model.normalised) == before


def test_what_a_node_said_before_is_kept(checked, document):
    once = annotated(checked, document)
    node = next(iter(checked.model.graph))
    node.doc_string = "from the exporter"
    try:
        again = annotated(checked, document)
    finally:
        node.doc_string = None
    first, second = next(iter(once.graph)), next(iter(again.graph))
    assert second.doc_string == f"from the exporter\n{first.doc_string}"


def test_the_worst_output_of_a_node_counts_and_failures_are_named(checked, document):
    row = {**document["layers"][0], "difference": None, "problem": "gone"}
    document["layers"].append(row)
    node = next(node for node in annotated(checked, document).graph if node.name == "first")
    assert node.metadata_props["trtbuild.failed"] == "not compared: gone"
    assert "trtbuild.sqnr_db" not in node.metadata_props


def test_large_weights_lie_beside_it(checked, document, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 100)
    path = tmp_path / "large.onnx"
    save(annotated(checked, document), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    onnx.checker.check_model(str(path))
    np.testing.assert_array_equal(outputs(path)[0], outputs(str(checked.model.path))[0])


def test_same_document_same_bytes(checked, document, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        save(annotated(checked, document), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
