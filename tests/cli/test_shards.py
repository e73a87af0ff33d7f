"""`shards check` and `shards compare` from the command line."""

import json
import re
import shutil

import numpy as np
import pytest

NAN = np.nan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes a folder of .npz shards, a file per dict of arrays, into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name, *shards):
        (tmp_path / name).mkdir()
        for index, arrays in enumerate(shards):
            np.savez(tmp_path / name / f"{index}.npz", **arrays)
        return name

    return write


def spoiled(make_samples, value):
    x = make_samples(4, 0)
    x[2, 1, 3, 4] = value
    return x


def test_sound_shards(run, toy):
    for reference in (("--engine", "toy"), ("--model", toy / "model.onnx"), ()):
        result = run("shards", "check", toy / "shards", *reference, "--json")
        document = result.document
        assert result.code == 0
        assert (document["shards"], document["samples"], document["passed"]) == (2, 11, True)
        assert document["inputs"]["x"]["shapes"] == [{"shape": [3, 8, 8], "samples": 11}]
    x = np.concatenate([np.load(path)["x"] for path in (toy / "shards").iterdir()])
    figures = document["inputs"]["x"]
    assert (figures["min"], figures["max"]) == (x.min(), x.max())
    assert figures["mean"] == pytest.approx(x.mean(), rel=1e-4)
    text = run("shards", "check", toy / "shards").out
    assert "11 samples in 2 shards" in text
    assert "no flaws" in text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x.__setitem__((1, 0, 0, 0), NAN), "0:1: input x: 1 NaN"),
        (lambda x: x.__setitem__((2, 0), np.inf), "0:2: input x: 64 Inf"),
        (lambda x: x.__setitem__(3, x[0]), "duplicates: 0:0, 0:3"),
        (lambda x: x.__setitem__(3, 0.25), "0:3: input x: constant 0.25"),
    ],
)
def test_flaws_are_exit_code_1_and_named(run, toy, folder, make_samples, spoil, words):
    x = make_samples(4, 0)
    spoil(x)
    result = run("shards", "check", folder("bad", {"x": x}), "--engine", "toy")
    assert result.code == 1
    assert words in result.out
    assert "flawed" in result.out
    assert result.errors == []
    assert run("shards", "check", "bad", "--json").document["passed"] is False


def test_many_flaws_are_counted(run, toy, folder):
    folder("bad", {"x": np.ones((30, 3, 8, 8), np.float32)})
    text = run("shards", "check", "bad").out
    assert "30 NaN, Inf or constant, the first 10:" in text
    assert "0:9: input x" in text
    assert "0:10: input x" not in text
    assert "and 20 more" in text  # of the 30 duplicates
    assert len(run("shards", "check", "bad", "--json").document["constant"]) == 30


def damage(toy):
    file = toy / "shards" / "0.npz"
    file.write_bytes(file.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (damage, "0.npz is damaged"),
        (lambda toy: shutil.rmtree(toy / "shards"), "toy/shards: expected a folder of shards"),
        (lambda toy: [p.unlink() for p in (toy / "shards").iterdir()], "no shards in it"),
        (lambda toy: np.savez(toy / "shards" / "0.npz", x=np.array([{}], object)), "pickled Python objects"),
        (lambda toy: np.savez(toy / "shards" / "0.npz", x=np.ones((1, 8, 8), np.float32)), "shape|rank"),
    ],
)
def test_shards_that_cannot_be_read(run, toy, edit, words):
    edit(toy)
    for command in (("check", toy / "shards"), ("compare", toy / "validation", toy / "shards")):
        result = run("shards", *command, "--engine", "toy")
        assert (result.code, result.out, len(result.errors)) == (2, "", 1)
        assert re.search(words, result.errors[0])


def test_a_model_that_the_shards_do_not_fit(run, toy, model_file):
    model_file(toy / "other.onnx", "y = Relu(x)", {}, inputs="float[n,4] x", outputs="float[n,4] y")
    result = run("shards", "check", toy / "shards", "--model", toy / "other.onnx")
    assert result.code == 2
    assert "rank 4; the model takes rank 2" in result.errors[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--engine", "toy", "--model", "m.onnx"), "give --engine ENGINE or --model MODEL.onnx, one of them"),
        ((), "give --engine ENGINE or --model MODEL.onnx"),
        (("--engine", "tox"), "tox: neither .*nearest: toy"),
        (("--model", "m.onnx"), "m.onnx: no such model file"),
        (("--engine", "toy", "--threshold", "nan"), "'nan': expected a number above 0"),
        (("--engine", "toy", "--threshold", "0"), "'0': expected a number above 0"),
        (("--engine", "toy", "--threshold", "inf"), "'inf': expected a number above 0"),
    ],
)
def test_wrong_options(run, toy, options, words):
    result = run("shards", "compare", toy / "shards", toy / "validation", *options)
    assert result.code == 2
    assert re.search(words, result.errors[0])


def test_like_samples_represent(run, toy, folder, make_samples):
    a, b = folder("a", {"x": make_samples(40, 1)}), folder("b", {"x": make_samples(24, 2)})
    result = run("shards", "compare", a, b, "--engine", "toy", "--json")
    document = result.document
    assert (result.code, document["passed"], document["samples"]) == (0, True, {"a": 40, "b": 24})
    assert {row["tensor"]: row["kind"] for row in document["tensors"]} == {
        "x": "input",
        "p1": "activation",
        "f": "activation",
    }
    x = np.concatenate([np.load(f"{name}/0.npz")["x"].ravel() for name in "ab"])
    found = {row["tensor"]: row for row in document["tensors"]}["x"]
    a_max = np.abs(x[: 40 * 192]).max()
    assert found["absmax"] == a_max
    assert found["beyond"] == (np.abs(x[40 * 192 :]) > a_max).mean()
    text = run("shards", "compare", a, b, "--model", toy / "model.onnx").out
    assert "0 tensors with a PSI above 0.25" in text
    assert re.search(r"\brepresents", text)


def test_a_shift_is_exit_code_1_worst_first(run, toy, folder, make_samples):
    a, b = folder("a", {"x": make_samples(40, 1)}), folder("b", {"x": 3 * make_samples(40, 2)})
    result = run("shards", "compare", a, b, "--engine", "toy", "--json")
    document = result.document
    assert (result.code, document["passed"]) == (1, False)
    psi = [row["psi"] for row in document["tensors"]]
    assert psi == sorted(psi, reverse=True)
    x = {row["tensor"]: row for row in document["tensors"]}["x"]
    assert x["shifted"]
    assert x["psi"] > 0.25 > x["by_chance"]
    assert 0.1 < x["beyond"] < 0.5
    text = run("shards", "compare", a, b, "--engine", "toy")
    assert (text.code, text.errors) == (1, [])
    assert "SHIFTED" in text.out
    assert "does not represent" in text.out
    assert run("shards", "compare", a, b, "--engine", "toy", "--threshold", "40").code == 0


def test_the_inputs_alone(run, toy, folder, make_samples):
    a, b = folder("a", {"x": make_samples(9, 1)}), folder("b", {"x": make_samples(9, 2)})
    result = run("shards", "compare", a, b, "--engine", "toy", "--inputs-only", "--json")
    assert [row["tensor"] for row in result.document["tensors"]] == ["x"]


def test_the_same_set_twice(run, toy):
    result = run("shards", "compare", toy / "shards", toy / "shards", "--engine", "toy", "--json")
    assert result.code == 0
    assert {(row["psi"], row["kl"], row["beyond"]) for row in result.document["tensors"]} == {(0, 0, 0)}


def test_what_few_samples_do_by_chance_fails_nothing(run, toy, folder):
    """Samples of one brightness each: two sets of two always differ."""

    def flat(*values):
        noise = np.random.default_rng(0).normal(0, 0.01, (len(values), 3, 8, 8))
        return {"x": (np.array(values)[:, None, None, None] + noise).astype(np.float32)}

    a, b = folder("a", flat(0.1, 0.5)), folder("b", flat(0.3, 0.8))
    result = run("shards", "compare", a, b, "--engine", "toy", "--json")
    x = {row["tensor"]: row for row in result.document["tensors"]}["x"]
    assert x["psi"] > 1
    assert x["by_chance"] >= x["psi"]
    assert result.code == 0
    text = run("shards", "compare", a, b, "--engine", "toy").out
    assert "chance?" in text
    assert "3 tensors may be above it by chance: compare more samples to tell" in text


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_a_single_sample_cannot_be_compared(run, toy, folder, make_samples, order):
    folder("one", {"x": make_samples(1, 1)})
    folder("two", {"x": make_samples(2, 2)})
    result = run("shards", "compare", *order, "--engine", "toy")
    assert result.code == 2
    assert "one: 1 sample(s), one run of the model, cannot be told from chance" in result.errors[0]


def test_nan_in_either_set(run, toy, folder, make_samples):
    folder("bad", {"x": spoiled(make_samples, NAN)})
    result = run("shards", "compare", toy / "shards", "bad", "--engine", "toy")
    assert result.code == 2
    assert "0.npz: input 'x' has 1 NaN or Inf, the first in sample 2" in result.errors[0]


def test_activations_that_are_not_finite(run, tmp_path, folder, model_file):
    model_file(tmp_path / "m.onnx", "e = Exp(x) y = MatMul(e, w)", {"w": (4, 3)}, inputs="float[n,4] x")
    sound = np.arange(12, dtype=np.float32).reshape(3, 4)
    hot = np.where(sound == 5, 100, sound).astype(np.float32)
    folder("a", {"x": sound})
    folder("b", {"x": hot})
    for order in (("a", "b"), ("b", "a")):
        result = run("shards", "compare", *order, "--model", tmp_path / "m.onnx")
        assert result.code == 2
        assert "b: tensor 'e' has NaN or Inf in sample 0:1" in result.errors[0]


def test_sets_of_different_shapes(run, tmp_path, folder, model_file):
    """Dynamic axes: what is compared is values. A fixed axis is an error that names the file."""
    model_file(tmp_path / "m.onnx", "y = Relu(x)", {}, inputs="float[n,m] x", outputs="float[n,m] y")
    rng = np.random.default_rng(0)
    for name, shape in {"a": (30, 40), "b": (20, 60)}.items():
        folder(name, {"x": rng.normal(size=shape).astype(np.float32)})
    assert run("shards", "compare", "a", "b", "--model", "m.onnx").code == 0
    model_file(tmp_path / "m.onnx", "y = Relu(x)", {}, inputs="float[n,40] x", outputs="float[n,40] y")
    result = run("shards", "compare", "a", "b", "--model", "m.onnx")
    assert result.code == 2
    assert "b/0.npz: input 'x' has shape (20, 60): axis 1 is 60" in result.errors[0]


def test_several_inputs_integers_and_empty_ones(run, tmp_path, folder, model_file):
    model_file(
        tmp_path / "m.onnx",
        "i = Cast<to = 1>(ids) j = Concat<axis = 1>(x, i) y = MatMul(j, w) z = Identity(cache)",
        {"w": (36, 3)},
        inputs="float[n,4] x, int64[n,32] ids, float[n,m] cache",
        outputs="float[n,3] y, float[n,m] z",
    )
    rng = np.random.default_rng(0)

    def arrays(high):
        return {
            "x": rng.normal(size=(40, 4)).astype(np.float32),
            "ids": rng.integers(0, high, (40, 32)),
            "cache": np.zeros((40, 0), np.float32),
        }

    folder("a", arrays(100))
    folder("b", arrays(100))
    folder("c", arrays(1000))
    result = run("shards", "compare", "a", "b", "--model", "m.onnx", "--json")
    assert result.code == 0
    assert result.document["not_compared"] == ["cache"]
    assert {row["tensor"] for row in result.document["tensors"]} == {"x", "ids", "j"}
    result = run("shards", "compare", "a", "c", "--model", "m.onnx", "--json")
    assert result.code == 1
    assert {row["tensor"] for row in result.document["tensors"] if row["shifted"]} >= {"ids"}
    assert (
        "not compared, since there are no values: cache"
        in run("shards", "compare", "a", "b", "--model", "m.onnx").out
    )


def test_a_model_without_a_batch_axis(run, tmp_path, folder, model_file):
    model_file(tmp_path / "m.onnx", "y = Relu(p)", {}, inputs="float[n,3] p", outputs="float[n,3] y")
    rng = np.random.default_rng(0)
    clouds = [{"p": rng.normal(size=(n, 3)).astype(np.float32)} for n in (50, 60, 70)]
    folder("a", *clouds)
    folder("b", *clouds[:2])
    options = ("--model", "m.onnx", "--set", "model.batched=false", "--json")
    document = run("shards", "compare", "a", "b", *options).document
    assert document["samples"] == {"a": 3, "b": 2}
    assert run("shards", "check", "a", *options).document["samples"] == 3


def test_a_fixed_batch(run, tmp_path, folder, model_file, make_samples):
    """The rows that only fill up the last batch are not counted, and a run is a batch."""
    model_file(tmp_path / "m.onnx", "y = Relu(x)", {}, inputs="float[4,3,8,8] x", outputs="float[4,3,8,8] y")
    folder("a", {"x": make_samples(10, 0)})
    folder("b", {"x": make_samples(4, 1)})
    assert (
        run("shards", "compare", "a", "a", "--model", "m.onnx", "--json").document["tensors"][0]["psi"] == 0
    )
    result = run("shards", "compare", "a", "b", "--model", "m.onnx")
    assert "b: 4 sample(s), one run of the model" in result.errors[0]


def test_without_a_command_the_help_is_the_answer(run):
    result = run("shards")
    assert (result.code, result.out, result.errors) == (2, "", [])
    assert "compare" in result.err


def test_the_error_as_json(run, toy):
    result = run("shards", "check", "nowhere", "--json")
    assert (result.code, json.loads(result.out)["exit_code"]) == (2, 2)
