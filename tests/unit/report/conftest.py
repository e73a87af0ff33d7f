"""A real check of a toy whose names are hostile, and documents made from it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trtbuild import pipeline, validation
from trtbuild.engine import open_engine
from trtbuild.report.document import FIXED_TIME, Checked, compose

Document = dict[str, Any]
SCRIPT = "</script><script>alert(1)</script>"
QUOTES = "\"><img src=x onerror='alert(2)'> & {{ 7 * 7 }} ]]>"
HOSTILE = {"r1": SCRIPT, "c2": QUOTES, "r2": "bell\x07 and unit\x1f, héllo \U0001f600"}
RECIPE = """
[model]
path = "model.onnx"
[[pin]]
name = "first"
reason = "narrow <b>first</b> block"
[[pin]]
type = "Softmax"
[calibration]
shards = "shards"
[validation]
samples = "shards"
[validation.outputs]
cosine = 0.5
"""


@pytest.fixture(scope="session")
def checked(toy: Callable[..., onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """conv (pinned), Relu, conv, Relu, MatMul, Softmax: built for ONNX Runtime and checked."""
    folder = tmp_path_factory.mktemp("engines") / "toy"
    (folder / "shards").mkdir(parents=True)
    rng = np.random.default_rng(3)
    model = toy(
        """toy (float[n,3,8,8] x) => (float[n,3] y) {
            c1 = Conv<pads = [1,1,1,1]>(x, w1) r1 = Relu(c1) c2 = Conv<pads = [1,1,1,1]>(r1, w2)
            r2 = Relu(c2) g = GlobalAveragePool(r2) f = Flatten(g) m = MatMul(f, w3) y = Softmax(m) }""",
        {
            "w1": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "w2": rng.standard_normal((4, 4, 3, 3)).astype(np.float32),
            "w3": rng.standard_normal((4, 3)).astype(np.float32),
        },
    )
    for node in model.graph.node:
        node.input[:] = [HOSTILE.get(name, name) for name in node.input]
        node.output[:] = [HOSTILE.get(name, name) for name in node.output]
    model.graph.node[0].name, model.graph.node[2].name = "first", f"second {QUOTES}"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "shards" / "0.npz", x=rng.standard_normal((6, 3, 8, 8)).astype(np.float32))
    (folder / "recipe.toml").write_text(RECIPE)
    engine = open_engine(str(folder))
    return validation.check(engine, pipeline.build(engine, "onnxruntime"))


@pytest.fixture(scope="session")
def _composed(checked: Checked) -> str:
    with pytest.MonkeyPatch.context() as fixed:
        fixed.setenv(FIXED_TIME, "1700000000")
        return json.dumps(compose(checked))


@pytest.fixture
def document(_composed: str) -> Document:
    """The document of that check, as whoever reads the JSON has it; a fresh one to change."""
    loaded: Document = json.loads(_composed)
    return loaded


@pytest.fixture
def large(document: Document) -> Callable[[int], Document]:
    """The same with this many layers: errors of all sizes, every precision, pins, noise, ten histograms."""

    def grow(count: int) -> Document:
        given = document["layers"]
        rows = []
        for index in range(count):
            row = copy.deepcopy(given[index % len(given)])
            row["tensor"] = f"/model/encoder/layers.{index}/attention/MatMul_output_0 {row['tensor']}"
            row["precision"] = ("int8", "fp16", "bf16", "fp32")[index % 4]
            row["pinned"] = index % 11 == 0
            row["difference"]["sqnr_db"] = 60 * abs(np.sin(index / 9)) - 4
            row["difference"]["max_abs"] = 0.25
            row["noise"] = {**row["difference"], "sqnr_db": 90 + 5 * np.cos(index / 5)}
            rows.append(row)
        rows[1]["difference"]["sqnr_db"], rows[1]["difference"]["max_abs"] = None, 0.0
        rows[2]["difference"]["sqnr_db"] = None
        bars = {"edges": [i / 8 for i in range(65)], "golden": [i * i for i in range(64)]}
        bars["candidate"] = bars["golden"][::-1]
        worst = [
            {
                **{key: row[key] for key in ("tensor", "node", "precision", "difference")},
                "advice": f"{row['node']} runs in int8 without a pin",
                "pin": '[[pin]]\nname = "a"',
                "histogram": bars,
            }
            for row in rows[:10]
        ]
        return {**document, "layers": rows, "worst": worst}

    return grow


@pytest.fixture
def schema() -> Document:
    from importlib import resources

    text = resources.files("trtbuild.report").joinpath("document.schema.json").read_text("utf-8")
    loaded: Document = json.loads(text)
    return loaded


@pytest.fixture
def page(tmp_path: Path) -> Callable[[Document], Path]:
    """The HTML report as a file."""
    from trtbuild.report.html import html

    def write(document: Document) -> Path:
        path = tmp_path / "report.html"
        path.write_text(html(document), encoding="utf-8")
        return path

    return write
