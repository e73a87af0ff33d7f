import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

NEEDS = ("magika",)
OPTIONS = ("--calibration", "4", "--validation", "20")
SOURCE = Path(__file__).resolve().parents[2] / "engines" / "filetype"
CONFIG = {
    "beg_size": 1024,
    "end_size": 1024,
    "block_size": 4096,
    "padding_token": 256,
    "min_file_size_for_dl": 8,
}


@pytest.fixture(scope="module")
def engine(prepare):
    return prepare("filetype", *OPTIONS, needs=NEEDS)


def samples(folder):
    return {path.name: np.load(path)["bytes"] for path in sorted(folder.glob("*.npz"))}


def test_shards_hold_the_input_and_nothing_else(engine):
    (shard,) = (engine / "shards").iterdir()
    with np.load(shard) as arrays:
        assert arrays.files == ["bytes"]
    assert {name: x.shape for name, x in samples(engine / "validation").items()} == {
        "0000.npz": (16, 2048),
        "0001.npz": (4, 2048),
    }
    for x in (np.load(shard)["bytes"], *samples(engine / "validation").values()):
        assert x.dtype == np.int32
        assert x.min() >= 0
        assert x.max() <= 256


def test_nothing_is_left_behind(engine):
    assert {path.name for path in engine.iterdir()} == {
        *("recipe.toml", "prepare.py", "metric.py"),
        *("model.onnx", "labels.json", "shards", "validation"),
    }


def test_every_sample_has_a_label_that_the_model_knows(engine):
    labels = json.loads((engine / "validation" / "labels.json").read_text())
    assert list(labels) == [f"0000:{i}" for i in range(16)] + [f"0001:{i}" for i in range(4)]
    assert set(labels.values()) <= set(json.loads((engine / "labels.json").read_text()))


def test_same_seed_same_samples(engine, prepare):
    again = prepare("filetype", *OPTIONS, needs=NEEDS)
    for file in ("shards/0000.npz", "validation/0000.npz", "validation/0001.npz", "validation/labels.json"):
        assert (engine / file).read_bytes() == (again / file).read_bytes()


def test_other_seed_other_samples(engine, prepare):
    other = prepare("filetype", *OPTIONS, "--seed", "1", needs=NEEDS)
    assert not np.array_equal(
        np.load(engine / "shards/0000.npz")["bytes"], np.load(other / "shards/0000.npz")["bytes"]
    )


def test_calibration_is_not_validation(engine):
    rows = [
        row.tobytes()
        for folder in ("shards", "validation")
        for x in samples(engine / folder).values()
        for row in x
    ]
    assert len(rows) == len(set(rows)) == 24


def test_the_model_knows_the_files(engine, load):
    metric = load(engine / "metric.py")
    labels = json.loads((engine / "validation" / "labels.json").read_text())
    session = onnxruntime.InferenceSession(engine / "model.onnx", providers=["CPUExecutionProvider"])
    scores = []
    for name, x in samples(engine / "validation").items():
        (rows,) = session.run(None, {"bytes": x})
        for i in range(len(x)):
            scores.append(metric.top1({"out": rows[i : i + 1]}, labels[f"{Path(name).stem}:{i}"])[0])
    assert len(metric.labels()) == rows.shape[1]
    assert np.mean(scores) >= 0.8


def test_top1(load, monkeypatch):
    metric = load(SOURCE / "metric.py")
    monkeypatch.setattr(metric, "labels", lambda: ["c", "python", "rst"])
    outputs = {"any name": np.array([[0.1, 0.7, 0.2]], dtype=np.float32)}
    assert metric.top1(outputs, "python") == (1, pytest.approx(0.7))
    assert metric.top1(outputs, "rst") == (0, pytest.approx(0.7))


CONTENTS = [
    b"x" * 8,
    b"  \n" + b"import os\n" * 3 + b"\t\n",
    bytes(range(256)) * 5,
    b" " * 2000 + b"a" * 3000 + b"\n" * 100,
    b"b" * 4096 + b"c" * 4096,
    b"\n" * 4090 + b"d" * 5000,
    b"short",
    b"   four  \n\n",
    b" " * 5000,
    b"",
]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_the_input_is_what_magika_computes(load, tmp_path, content):
    magika = pytest.importorskip("magika", reason="pip install 'trtbuild[demo]'", exc_type=ImportError)
    types = pytest.importorskip("magika.types")
    path = tmp_path / "file"
    path.write_bytes(content)
    row = load(SOURCE / "prepare.py").network_input(path, CONFIG)

    theirs = magika.Magika._extract_features_from_seekable(
        types.Seekable(io.BytesIO(content)),
        1024,
        0,
        1024,
        padding_token=256,
        block_size=4096,
        use_inputs_at_offsets=False,
    )
    if row is None:  # magika decides these files by rule
        assert theirs.beg[CONFIG["min_file_size_for_dl"] - 1] == CONFIG["padding_token"]
    else:
        assert row.tolist() == theirs.beg + theirs.end


def test_the_tested_configuration_is_the_packaged_one(load):
    pytest.importorskip("magika", reason="pip install 'trtbuild[demo]'", exc_type=ImportError)
    model = load(SOURCE / "prepare.py").packaged("magika", "models/standard_v3_3/model.onnx")
    config = json.loads(model.with_name("config.min.json").read_text())
    assert config == config | CONFIG | {"mid_size": 0, "use_inputs_at_offsets": False}


def test_too_few_files_say_so(load, monkeypatch, capsys):
    prepare_py = load(SOURCE / "prepare.py")
    if importlib.util.find_spec("magika") is None:
        pytest.skip("magika not installed: pip install 'trtbuild[demo]'")
    monkeypatch.setattr(prepare_py, "files_by_label", lambda: {"python": [Path(__file__)]})
    monkeypatch.setattr("sys.argv", ["prepare.py"])
    with pytest.raises(SystemExit) as stop:
        prepare_py.main()
    assert stop.value.code == 3
    assert "464 files wanted, only 1 usable" in capsys.readouterr().err


def test_a_missing_package_is_named(load, monkeypatch, capsys):
    prepare_py = load(SOURCE / "prepare.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        prepare_py.packaged("magika", "models/x.onnx")
    assert stop.value.code == 3
    error = capsys.readouterr().err
    assert "magika" in error
    assert "pip install 'trtbuild[demo]'" in error
