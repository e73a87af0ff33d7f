"""A toy engine folder, and the command line run in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray

from trtbuild import entry

TOY = """
    c1 = Conv<pads = [1,1,1,1]>(x, w1, b1) r1 = Relu(c1)
    p1 = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r1)
    c2 = Conv<pads = [1,1,1,1]>(p1, w2) r2 = Relu(c2) g = GlobalAveragePool(r2) f = Flatten(g)
    m = MatMul(f, w3) y = Softmax(m)
"""
WEIGHTS = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "w3": (4, 3)}
RECIPE = """
[model]
path = "model.onnx"
[calibration]
shards = "shards"
[validation]
samples = "validation"
labels = "validation/labels.json"
metric = "metric.py:top1"
max_drop = 0.25
[validation.outputs]
cosine = 0.9
"""
METRIC = '''
def top1(outputs, label):
    """1 when the class is right."""
    return float(outputs["y"].argmax() == label)
'''


@dataclass(frozen=True)
class Result:
    """What one run of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """All of stdout as one JSON document."""
        document = json.loads(self.out)
        assert document["schema_version"] == 1
        return document

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


Run = Callable[..., Result]
Tree = Callable[[], dict[str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; also what native code prints is seen."""

    def run_here(*arguments: object) -> Result:
        capfd.readouterr()
        code = entry.run([str(argument) for argument in arguments])
        assert type(code) is int or code == int(code)
        return Result(int(code), *capfd.readouterr())

    return run_here


def write_model(
    path: Path,
    body: str,
    weights: Mapping[str, tuple[int, ...] | NDArray[Any]],
    inputs: str = "float[n,3,8,8] x",
    outputs: str = "float[n,3] y",
    seed: int = 0,
) -> Path:
    """Write a model from ONNX text; a weight given as a shape is random."""
    text = f'<ir_version: 9, opset_import: ["": 18]> toy ({inputs}) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, given in weights.items():
        random = isinstance(given, tuple)
        data = (rng.standard_normal(given) * 0.5).astype(np.float32) if random else np.asarray(given)
        model.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    onnx.save(model, path)
    return path


def samples(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy engine, made once; labels are what the float model says."""
    folder = tmp_path_factory.mktemp("template") / "toy"
    for name in ("shards", "validation"):
        (folder / name).mkdir(parents=True)
    write_model(folder / "model.onnx", TOY, WEIGHTS)
    for index, count in enumerate((5, 6)):
        np.savez(folder / "shards" / f"{index}.npz", x=samples(count, index))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    labels = {}
    for index, count in enumerate((3, 4)):
        x = samples(count, 10 + index)
        np.savez(folder / "validation" / f"{index}.npz", x=x)
        classes = session.run(["y"], {"x": x})[0].argmax(1).tolist()
        labels |= {f"{index}:{row}": label for row, label in enumerate(classes)}
    (folder / "validation" / "labels.json").write_text(json.dumps(labels))
    (folder / "metric.py").write_text(METRIC)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def toy(_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh engines/toy; the working directory holds `engines`, and temporary files go to `tmp` there."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(_template, tmp_path / "engines" / "toy")
    return Path("engines/toy")


@pytest.fixture
def recipe(toy: Path) -> Callable[..., None]:
    """Append to the toy's recipe, after replacing text in it."""

    def edit(addition: str = "", **replaced: str) -> None:
        text = RECIPE
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        (toy / "recipe.toml").write_text(text + addition)

    return edit


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """Every file and folder below the working directory, with a hash of what is in it."""

    def look() -> dict[str, str]:
        return {
            str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else "folder"
            for path in tmp_path.rglob("*")
        }

    return look


@pytest.fixture
def model_file() -> Callable[..., Path]:
    return write_model


@pytest.fixture
def make_samples() -> Callable[..., NDArray[np.float32]]:
    return samples


@pytest.fixture
def control_c() -> Iterator[None]:
    """Ctrl-C as in a foreground process, also where the tests run in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def refused(run: Run, tree: Tree, words: str, *options: object) -> None:
    """`validate` with these options: exit code 2 and one line, before anything is run or written."""
    before = tree()
    result = run("validate", "toy", *options)
    assert (result.code, result.out) == (2, "")
    assert len(result.errors) == 1
    assert words in result.errors[0]
    assert "comparing" not in result.err
    assert run("validate", "toy", *options, "--json").document["exit_code"] == 2
    assert tree() == before
