"""Wrong input: one line that says what is wrong, exit code 2 (3 for the machine), and nothing written."""

import json
import os
import pickle
import re
import shutil
import zipfile

import numpy as np
import onnx
import onnx.external_data_helper
import pytest

SHARD = "shards/0.npz"


def write_shard(**arrays):
    return lambda toy: np.savez(toy / SHARD, **arrays)


def x(*shape, dtype="float32", value=0.5):
    return np.full(shape or (2, 3, 8, 8), value, dtype)


def spoiled(value):
    array = x()
    array[1, 2, 3, 4] = value
    return array


def truncate(name, keep=0.6):
    def cut(toy):
        data = (toy / name).read_bytes()
        (toy / name).write_bytes(data[: int(len(data) * keep)])

    return cut


def pickled(toy):
    np.savez(toy / SHARD, x=np.array([{"a": 1}, None], object))


def pickled_file(toy):
    (toy / "shards" / "9.npy").write_bytes(pickle.dumps([1, 2]))


def external(location):
    """The model with its weights outside, at a place where they must not be."""

    def move(toy):
        model = onnx.load(toy / "model.onnx")
        onnx.external_data_helper.convert_model_to_external_data(
            model, location="weights.bin", size_threshold=0
        )
        onnx.save(model, toy / "model.onnx")
        shutil.move(toy / "weights.bin", toy.parent / "weights.bin")
        text = (toy / "model.onnx").read_bytes()
        model = onnx.load(toy / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location(toy)
        (toy / "model.onnx").write_bytes(model.SerializeToString())
        assert text != (toy / "model.onnx").read_bytes()

    return move


def linked(toy):
    external(lambda _: "weights.bin2")(toy)
    (toy / "weights.bin2").symlink_to((toy.parent / "weights.bin").resolve())


def recipe_text(old, new):
    def edit(toy):
        text = (toy / "recipe.toml").read_text()
        assert old in text
        (toy / "recipe.toml").write_text(text.replace(old, new))

    return edit


def nothing(toy):
    pass


WRONG_MODEL_OR_SHARDS = {
    "no model": (lambda toy: (toy / "model.onnx").unlink(), "model.onnx: no such model file"),
    "truncated model": (truncate("model.onnx"), "model.onnx"),
    "empty model": (truncate("model.onnx", 0), "model.onnx"),
    "no model but a text": (lambda toy: (toy / "model.onnx").write_text("hello"), "model.onnx"),
    "external data above": (external(lambda _: "../weights.bin"), "outside the model's folder; refused"),
    "external data absolute": (
        external(lambda toy: str((toy.parent / "weights.bin").resolve())),
        "outside the model's folder; refused",
    ),
    "external data linked": (linked, "symbolic link; refused"),
    "external data missing": (external(lambda _: "gone.bin"), "does not exist beside the model"),
    "empty shard folder": (
        lambda toy: [path.unlink() for path in (toy / "shards").iterdir()],
        "toy/shards: no shards in it",
    ),
    "no shard folder": (lambda toy: shutil.rmtree(toy / "shards"), "toy/shards: expected a folder of shards"),
    "missing input": (write_shard(z=x()), r"0.npz: missing input\(s\) 'x'"),
    "extra input": (write_shard(x=x(), label=x(2)), r"0.npz: extra input\(s\) 'label'"),
    "wrong dtype": (write_shard(x=x(dtype="float64")), "input 'x' is float64, the model takes float32"),
    "wrong rank": (write_shard(x=x(3, 8, 8)), "rank 3; the model takes rank 4"),
    "wrong axis": (write_shard(x=x(2, 4, 8, 8)), "axis 1 is 4"),
    "no samples": (write_shard(x=x(0, 3, 8, 8)), "no samples in it"),
    "NaN": (write_shard(x=spoiled(np.nan)), "0.npz: input 'x' has 1 NaN or Inf, the first in sample 1"),
    "Inf": (write_shard(x=spoiled(-np.inf)), "0.npz: input 'x' has 1 NaN or Inf, the first in sample 1"),
    "pickled object": (pickled, "0.npz: 'x.npy' holds pickled Python objects"),
    "pickled file": (pickled_file, "9.npy"),
    "truncated zip": (truncate(SHARD), "0.npz is damaged or no .npz file"),
    "unknown key": (recipe_text("[calibration]", "[calibration]\nmetod = 'mse'"), "metod.*nearest: method"),
    "unknown section": (recipe_text("[calibration]", "[calibraton]"), "calibraton.*nearest: calibration"),
    "not TOML": (recipe_text("[calibration]", "[calibration"), "recipe.toml: not valid TOML"),
    "unknown method": (recipe_text("[calibration]", "[calibration]\nmethod = 'best'"), "'best'.*entropy"),
    "a pattern for no tensor": (
        recipe_text("[validation]", "[calibration.tensors]\n'glob:p1x*' = 'mse'\n[validation]"),
        r"\[calibration.tensors\] 'glob:p1x\*' matches no calibrated tensor; nearest: p1",
    ),
    "an unknown input": (
        recipe_text("[validation]", "[inputs.y]\nmin=[1]\nopt=[1]\nmax=[1]\n[validation]"),
        r"\[inputs.y\]: the model has no such input",
    ),
    "impossible shapes": (
        recipe_text("[validation]", "[inputs.x]\nmin=[1,1,1,1]\nopt=[1,1,1,1]\nmax=[1,1,1,1]\n[validation]"),
        r"\[inputs.x\] min = \[1, 1, 1, 1\] does not fit",
    ),
    "activations overflow": (write_shard(x=x(value=3e38)), "tensor '.*NaN or Inf"),
}


def check(run, tree, arguments, words, code=2):
    """The same failure as text and as JSON, with nothing written."""
    before = tree()
    result = run(*arguments)
    assert result.code == code, result
    assert result.out == ""
    assert len(result.errors) == 1, result.err
    assert result.err.splitlines()[-1] == result.errors[0]
    assert re.search(words, result.errors[0]), result.errors[0]
    assert "Traceback" not in result.err
    as_json = run(*arguments, "--json")
    assert as_json.code == code
    assert as_json.document == {
        "schema_version": 1,
        "error": result.errors[0].removeprefix("error: "),
        "exit_code": code,
    }
    assert tree() == before


@pytest.mark.parametrize("case", WRONG_MODEL_OR_SHARDS)
@pytest.mark.parametrize("command", ["calibrate", "build"])
def test_wrong_model_recipe_or_shards(run, toy, tree, command, case):
    spoil, words = WRONG_MODEL_OR_SHARDS[case]
    spoil(toy)
    check(run, tree, [command, "toy"], words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pins", "toyy"], "toyy: neither a folder .* nearest: toy"),
        (["build", "toyy"], "nearest: toy"),
        (["validate", "toyy"], "toyy: neither a build's folder, .*nor an engine; nearest: toy"),
        (["inspect", "toyy"], "toyy: neither a build's folder, .*nor an engine; nearest: toy"),
        (["pins", "gone.onnx"], "gone.onnx: no such model file"),
        (["pins", "toy", "--pin", "Conv_c3"], "Conv_c3.*nearest: Conv_c1, Conv_c2|nearest: Conv_c2, Conv_c1"),
        (["build", "toy", "--pin", "type:Sofmax"], "Sofmax.*nearest: Softmax"),
        (["build", "toy", "--pin", "re:("], "not a regular expression"),
        (["build", "toy", "--pin", "pattern:laynorm"], "layernorm"),
        (["build", "toy", "--target", "onnxrutime"], "unknown target 'onnxrutime'; there are auto, tensorrt"),
        (["build", "toy", "--set", "precision.budget"], "expected key=value"),
        (["build", "toy", "--set", "precision.bugdet=1"], "bugdet.*nearest: budget"),
        (["build", "toy", "--set", "precision.default=int4"], "precision.default"),
        (["build", "toy", "--set", "validation.max_drop=inf"], "max_drop"),
        (["build", "toy", "-o", "gone/x.onnx"], "cannot write into gone"),
        (["build", "toy", "-o", "engines/toy/recipe.toml/x.onnx"], "Not a directory"),
        (["build", "toy", "-o", "/proc/x.onnx"], "cannot write into /proc"),
        (["calibrate", "toy", "-o", "/proc/x.json"], "cannot write into /proc"),
        (["calibrate", "toy", "-o", "engines"], "is a folder"),
        (["calibrate", "toy", "-o", "engines/toy/model.onnx"], "overwrite the model"),
        (["calibrate", "toy", "-o", "engines/toy/recipe.toml"], "overwrite the recipe"),
        (
            ["build", "toy", "--target", "onnxruntime", "--mode", "implicit"],
            "--mode implicit: only target tens",
        ),
        (
            ["pins", "toy", "--target", "tensorrt-rtx", "--mode", "implicit"],
            "target tensorrt-rtx builds the exp",
        ),
        (["calibrate", "toy", "--target", "onnxruntime", "--mode", "implicit"], "drop --mode"),
        (["build", "toy", "--target", "onxruntime", "--mode", "implicit"], "unknown target"),
        (["build", "toy", "--calib", "nowhere"], "nowhere: expected a folder of shards"),
    ],
)
def test_wrong_arguments(run, toy, tree, arguments, words):
    check(run, tree, arguments, words)


def test_an_engine_is_not_promised_by_a_machine_that_cannot_build_it(run, toy, tree):
    for target in ("auto", "onnxruntime"):
        check(run, tree, ["build", "toy", "--target", target, "-o", "x.engine"], "promises an engine", 3)


def test_a_model_is_not_promised_by_a_target_that_builds_engines(run, toy, tree):
    pytest.importorskip("tensorrt_rtx")
    check(run, tree, ["build", "toy", "--target", "tensorrt-rtx", "-o", "x.onnx"], "promises an ONNX model")


def test_a_target_that_is_not_there(run, toy, tree):
    check(run, tree, ["build", "toy", "--target", "tensorrt"], "needs the package tensorrt .*pip install", 3)


def test_a_package_that_is_not_there(run, toy, tree, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    words = r"needs the package tensorrt-rtx .*pip install 'trtbuild\[rtx\]'"
    check(run, tree, ["build", "toy", "--target", "tensorrt-rtx", "-o", "x.engine"], words, 3)


def metric(text):
    return lambda toy: (toy / "metric.py").write_text(text)


def labels(text):
    return lambda toy: (toy / "validation" / "labels.json").write_text(text)


WRONG_VALIDATION = {
    "metric raises": (
        metric("def top1(outputs, label):\n    raise KeyError('nope')\n"),
        "metric metric.py:top1 raised KeyError on sample 0:0: 'nope'; -v shows its traceback",
    ),
    "metric NaN": (metric("def top1(o, l):\n    return float('nan')\n"), "returned nan for sample 0:0"),
    "metric inf": (metric("def top1(o, l):\n    return float('inf')\n"), "returned inf for sample 0:0"),
    "metric None": (metric("def top1(o, l):\n    pass\n"), "returned NoneType None for sample 0:0"),
    "metric exits": (metric("import sys\ndef top1(o, l):\n    sys.exit(0)\n"), "raised SystemExit"),
    "metric file exits": (metric("raise SystemExit(0)\n"), "metric.py raised SystemExit when loaded"),
    "metric file raises": (metric("1 / 0\n"), "metric.py raised ZeroDivisionError when loaded"),
    "metric file is no Python": (metric("def top1(:\n"), "metric.py raised SyntaxError when loaded"),
    "metric is missing": (metric("def top2(o, l):\n    return 1\n"), "no function 'top1'; nearest: top2"),
    "metric is no function": (metric("top1 = 1\n"), "no function 'top1'"),
    "metric file is missing": (lambda toy: (toy / "metric.py").unlink(), "metric.py: no such metric file"),
    "a label is missing": (labels('{"0:0": 1, "0:1": 1}'), "no label for sample '0:2'; nearest: 0:1, 0:0"),
    "labels are not JSON": (labels("{"), "labels.json: not valid JSON"),
    "labels are a list": (labels("[1, 2]"), "labels.json: expected a JSON object"),
    "labels are binary": (
        lambda toy: (toy / "validation" / "labels.json").write_bytes(b"\xff\xfe"),
        "labels.json: not valid JSON",
    ),
    "labels are missing": (
        lambda toy: (toy / "validation" / "labels.json").unlink(),
        "labels.json: no such labels file",
    ),
    "no samples": (lambda toy: shutil.rmtree(toy / "validation"), "toy/validation: expected a folder"),
    "samples with NaN": (
        lambda toy: np.savez(toy / "validation" / "0.npz", x=spoiled(np.nan)),
        "validation/0.npz: input 'x' has 1 NaN or Inf, the first in sample 1",
    ),
    "model gone": (lambda toy: (toy / "model.onnx").unlink(), "model.onnx: no such model file"),
}


@pytest.mark.parametrize("case", WRONG_VALIDATION)
def test_wrong_validation(run, toy, tree, case):
    assert run("build", "toy").code == 0
    spoil, words = WRONG_VALIDATION[case]
    spoil(toy)
    check(run, tree, ["validate", "toy"], words)


def test_the_metrics_own_traceback_is_shown_on_demand(run, toy):
    run("build", "toy")
    (toy / "metric.py").write_text(
        "def top1(o, l):\n    return deeper()\ndef deeper():\n    raise KeyError('nope')\n"
    )
    quiet, loud = run("validate", "toy"), run("validate", "toy", "-v", "--json")
    assert "Traceback" not in quiet.err
    assert loud.code == 2
    assert 'metric.py", line 4, in deeper' in loud.err
    assert len(loud.errors) == 1
    assert loud.document["exit_code"] == 2


class TestQuantizedModel:
    """A model from quantization-aware training: built, audited and validated as it is."""

    @pytest.fixture(autouse=True)
    def qat(self, toy, model_file):
        body = """
            xq = QuantizeLinear(x, xs, zero) xd = DequantizeLinear(xq, xs, zero) f = Flatten(xd)
            w = DequantizeLinear<axis = 1>(w8, ws, wz) m = MatMul(f, w) y = Softmax(m)"""
        rng = np.random.default_rng(0)
        weights = {
            "xs": np.float32(0.03),
            "zero": np.int8(0),
            "w8": rng.integers(-127, 127, (192, 3)).astype(np.int8),
            "ws": np.array([0.001, 0.002, 0.003], np.float32),
            "wz": np.zeros(3, np.int8),
        }
        model_file(toy / "model.onnx", body, weights)

    def test_calibrate_is_refused_with_the_reason(self, run, toy, tree):
        check(run, tree, ["calibrate", "toy"], "brings its own Q/DQ: its ranges are in the graph already")

    def test_calibrate_is_refused_before_the_shards_are_looked_at(self, run, toy, tree):
        shutil.rmtree(toy / "shards")
        check(run, tree, ["calibrate", "toy"], "brings its own Q/DQ")

    def test_it_is_built_audited_and_validated_as_it_is(self, run, toy):
        built = run("build", "toy", "--json")
        assert built.code == 0
        assert built.document["ranges"] is None
        assert built.document["model"]["quantized"] is True
        assert built.document["audit"]["histogram"]["int8"] >= 1
        verdict = run("validate", "toy", "--json").document
        assert verdict["passed"] is True
        assert all(layer["difference"]["max_abs"] == 0 for layer in verdict["layers"])

    def test_a_rule_that_would_change_it_is_refused(self, run, toy, tree):
        check(run, tree, ["build", "toy", "--pin", "MatMul_m"], "brings its own Q/DQ")


class TestImpossibleSample:
    """Axis 1 is dynamic in the declaration, but the MatMul behind it takes 4 only."""

    @pytest.fixture(autouse=True)
    def model(self, toy, model_file):
        model_file(
            toy / "model.onnx", "r = Relu(x) y = MatMul(r, w)", {"w": (4, 3)}, "float[n,k] x", "float[n,3] y"
        )
        for folder in ("shards", "validation"):
            for path in (toy / folder).glob("*.npz"):
                path.unlink()
            np.savez(toy / folder / "good.npz", x=np.ones((2, 4), np.float32))

    def test_calibrate_names_the_samples(self, run, toy, tree):
        np.savez(toy / "shards" / "long.npz", x=np.ones((2, 5), np.float32))
        check(run, tree, ["calibrate", "toy"], "running long:0 failed: ")

    def test_validate_names_the_sample(self, run, toy, tree):
        (toy / "metric.py").write_text("def top1(o, l): return 1")
        (toy / "validation" / "labels.json").write_text('{"good:0": 0, "good:1": 0, "long:0": 0}')
        assert run("build", "toy").code == 0
        np.savez(toy / "validation" / "long.npz", x=np.ones((1, 5), np.float32))
        check(run, tree, ["validate", "toy"], "golden: running long:0 failed: ")


def test_a_model_that_only_the_checker_finds_wrong(run, toy, tree, model_file):
    """The attribute does not exist; ONNX Runtime or the checker says so, and nothing is kept."""
    model_file(toy / "model.onnx", "f = Flatten<sideways = 1>(x) y = MatMul(f, w)", {"w": (192, 3)})
    check(run, tree, ["calibrate", "toy"], "sideways")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(run, toy, tree):
    header = np.lib.format.magic(1, 0)
    shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000, 3, 8, 8), }".ljust(117) + "\n"
    data = header + len(shape).to_bytes(2, "little") + shape.encode()
    with zipfile.ZipFile(toy / SHARD, "w") as archive:
        archive.writestr("x.npy", data)
    check(run, tree, ["calibrate", "toy"], "0.npz.*GiB")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_shard(run, toy, tree):
    (toy / SHARD).chmod(0)
    check(run, tree, ["calibrate", "toy"], "0.npz cannot be read: Permission denied")


def test_the_json_of_an_error_is_one_line_of_plain_text(run, toy):
    (toy / "metric.py").write_text("def top1(o, l):\n    raise ValueError('two\\nlines\\x1b[31m')\n")
    run("build", "toy")
    result = run("validate", "toy", "--json")
    assert "two lines" in result.document["error"]
    assert json.loads(result.out)["exit_code"] == 2
    assert len(result.errors) == 1
