import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

NEEDS = ("PIL", "rapidocr_onnxruntime", "font_roboto", "font_source_sans_pro", "font_source_serif_pro")
SOURCE = Path(__file__).resolve().parents[2] / "engines" / "ocr-rec"


@pytest.fixture(scope="module")
def engine(prepare):
    return prepare("ocr-rec", "--calibration", "4", "--validation", "20", needs=NEEDS)


@pytest.fixture
def metric(load, monkeypatch):
    """metric.py with the character set: blank, a, b, c, space."""
    module = load(SOURCE / "metric.py")
    monkeypatch.setattr(module, "character_set", lambda: ["", "a", "b", "c", " "])
    return module


def samples(folder):
    return {path.name: np.load(path)["x"] for path in sorted(folder.glob("*.npz"))}


def probabilities(classes):
    return {"any name": np.eye(5, dtype=np.float32)[None, classes]}


def test_shards_hold_the_input_and_nothing_else(engine):
    (shard,) = (engine / "shards").iterdir()
    with np.load(shard) as arrays:
        assert arrays.files == ["x"]
    assert {name: x.shape for name, x in samples(engine / "validation").items()} == {
        "0000.npz": (16, 3, 48, 320),
        "0001.npz": (4, 3, 48, 320),
    }
    for x in (np.load(shard)["x"], *samples(engine / "validation").values()):
        assert x.dtype == np.float32
        assert np.abs(x).max() <= 1


def test_nothing_is_left_behind(engine):
    assert {path.name for path in engine.iterdir()} == {
        *("recipe.toml", "prepare.py", "metric.py"),
        *("model.onnx", "shards", "validation"),
    }


def test_every_sample_has_a_label(engine):
    labels = json.loads((engine / "validation" / "labels.json").read_text())
    assert list(labels) == [f"0000:{i}" for i in range(16)] + [f"0001:{i}" for i in range(4)]
    assert all(text.isascii() and 4 <= len(text) <= 22 for text in labels.values())


def test_same_seed_same_samples(engine, prepare):
    again = prepare("ocr-rec", "--calibration", "4", "--validation", "20", needs=NEEDS)
    for file in ("shards/0000.npz", "validation/0000.npz", "validation/0001.npz", "validation/labels.json"):
        assert (engine / file).read_bytes() == (again / file).read_bytes()


def test_other_seed_other_samples(engine, prepare):
    other = prepare("ocr-rec", "--calibration", "4", "--validation", "4", "--seed", "1", needs=NEEDS)
    assert not np.array_equal(
        np.load(engine / "shards/0000.npz")["x"], np.load(other / "shards/0000.npz")["x"]
    )


def test_calibration_is_not_validation(engine):
    calibration = np.load(engine / "shards" / "0000.npz")["x"]
    validation = np.load(engine / "validation" / "0000.npz")["x"]
    assert not any(np.array_equal(a, b) for a in calibration for b in validation)


def test_the_model_reads_the_lines(engine, load):
    metric = load(engine / "metric.py")
    labels = json.loads((engine / "validation" / "labels.json").read_text())
    session = onnxruntime.InferenceSession(engine / "model.onnx", providers=["CPUExecutionProvider"])
    exact, characters = [], []
    for name, x in samples(engine / "validation").items():
        (rows,) = session.run(None, {"x": x})
        for i in range(len(x)):
            outputs, label = {"out": rows[i : i + 1]}, labels[f"{Path(name).stem}:{i}"]
            exact.append(metric.exact_match(outputs, label)[0])
            characters.append(metric.character_accuracy(outputs, label))
    assert len(metric.character_set()) == rows.shape[2]
    assert np.mean(exact) >= 0.8
    assert np.mean(characters) >= 0.95


def test_decode_collapses_runs_and_drops_blanks(metric):
    assert metric.decode(probabilities([0, 1, 1, 0, 1, 2, 2, 4, 0, 3, 3, 0])) == "aab c"
    assert metric.decode(probabilities([0, 0, 0])) == ""


@pytest.mark.parametrize(
    ("label", "exact", "characters"),
    [("abc", 1, 1), ("abb", 0, 2 / 3), ("abca", 0, 3 / 4), ("bc", 0, 1 / 2), ("x", 0, 0)],
)
def test_scores(metric, label, exact, characters):
    outputs = probabilities([1, 2, 3])
    assert metric.exact_match(outputs, label) == (exact, 1)
    assert metric.character_accuracy(outputs, label) == pytest.approx(characters)


def test_the_confidence_is_the_mean_over_time(metric):
    outputs = probabilities([1, 2, 3])
    outputs["any name"][0, 1] *= 0.25
    assert metric.exact_match(outputs, "abc") == (1, 0.75)


def test_a_missing_package_is_named(load, monkeypatch, capsys):
    pytest.importorskip("PIL", reason="pip install 'trtbuild[demo]'")
    prepare_py = load(SOURCE / "prepare.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        prepare_py.packaged("rapidocr_onnxruntime", "models/x.onnx")
    assert stop.value.code == 3
    error = capsys.readouterr().err
    assert "rapidocr_onnxruntime" in error
    assert "pip install 'trtbuild[demo]'" in error
