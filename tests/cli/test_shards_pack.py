"""`shards pack` from the command line: arrays, images and generators, and what is wrong with them."""

import errno
import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibrators import write
from calibrators.formats import read_arrays

FLOATS = ("--scale", "1/255")


@pytest.fixture
def model(tmp_path, monkeypatch, model_file):
    """Writes m.onnx, which hands its inputs through, into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of the generators, beside them

    def write_it(inputs="float[n,3,8,8] x"):
        names = re.findall(r"\] (\w+)", inputs)
        body = " ".join(f"{name}_out = Identity({name})" for name in names)
        outputs = re.sub(r"\] (\w+)", r"] \1_out", inputs)
        return model_file(Path("m.onnx"), body, {}, inputs=inputs, outputs=outputs)

    write_it()
    return write_it


@pytest.fixture
def pack(run, model):
    """Packs `source` into out/; returns the result and the arrays of the shards."""

    def pack_it(source, *options, output="out"):
        result = run("shards", "pack", source, output, "--model", "m.onnx", *options)
        files = sorted(Path(output).glob("*.npz")) if result.code == 0 else []
        return result, [read_arrays(path, "x") for path in files]

    return pack_it


@pytest.fixture
def refused(pack, tree):
    """Packing fails with one line and leaves nothing behind."""

    def expect(source, words, *options, code=2, output="out"):
        before = tree()
        result, _ = pack(source, *options, output=output)
        assert (result.code, result.out, len(result.errors)) == (code, "", 1), result
        assert re.search(words, result.errors[0]), result.errors
        assert "Traceback" not in result.err
        assert tree() == before

    return expect


def folder(**arrays):
    """A folder src of .npy and .npz files: an array, or a dict of them."""
    Path("src").mkdir()
    for name, array in arrays.items():
        if isinstance(array, dict):
            np.savez(f"src/{name}.npz", **array)
        else:
            np.save(f"src/{name}.npy", array)
    return "src"


def generator(text, name="gen.py"):
    Path(name).write_text("import numpy as np\n" + text)
    return f"{name}:samples"


def sources():
    return json.loads(Path("out/sources.json").read_text())


# Arrays.


def test_files_of_one_sample_and_of_many_in_the_order_of_their_names(pack, run, make_samples):
    x = make_samples(8, 0)
    source = folder(b=x[1], a=x[0], c={"x": x[2:7]}, d=x[7:8])
    result, shards = pack(source, "--per-shard", 3, "--json")
    assert np.array_equal(np.concatenate([shard["x"] for shard in shards]), x)
    assert [len(shard["x"]) for shard in shards] == [3, 3, 2]
    document = result.document
    assert {key: document[key] for key in ("kind", "samples", "shards", "batched")} == {
        "kind": "arrays",
        "samples": 8,
        "shards": 3,
        "batched": True,
    }
    assert sources()["shard-000001:0"] == "src/c.npz:1"
    assert run("shards", "check", "out", "--model", "m.onnx").code == 0
    assert "few: 3 samples in 1 shards" in pack(source, "--limit", 3, output="few")[0].out


def test_an_engine_is_calibrated_with_what_was_packed(run, toy, make_samples):
    source = folder(a=make_samples(9, 0))
    assert run("shards", "pack", source, "out", "--engine", "toy", "--per-shard", 4).code == 0
    assert run("calibrate", "toy", "--calib", "out").code == 0


def test_a_model_with_several_inputs(pack, model, refused):
    model("float[n,2] x, int64[n] ids")
    one = {"x": np.ones(2, np.float32), "ids": np.array(3)}
    many = {"x": np.ones((2, 2), np.float32), "ids": np.array([4, 5])}
    source = folder(a=one, b=many)
    _, (shard,) = pack(source)
    assert shard["ids"].tolist() == [3, 4, 5]
    np.save("src/c.npy", np.ones((1, 2), np.float32))
    refused(source, "c.npy holds one array, the model has 2 inputs", output="other")


def test_a_model_without_a_batch_axis(pack, model):
    model("float[n,3] points, float[2] weights")
    clouds = {f"c{n}": {"points": np.ones((n, 3), "f4"), "weights": np.ones(2, "f4")} for n in (4, 5)}
    result, shards = pack(folder(**clouds), "--json")
    assert [shard["points"].shape for shard in shards] == [(4, 3), (5, 3)]
    assert result.document["batched"] is False


def test_batched_false_of_a_recipe(pack, model):
    model("float[n,3] points")
    _, shards = pack(folder(a=np.ones((4, 3), "f4"), b=np.ones((4, 3), "f4")), "--set", "model.batched=false")
    assert [shard["points"].shape for shard in shards] == [(4, 3), (4, 3)]


def test_a_fixed_batch_of_the_model_says_nothing_about_files(pack, model, make_samples):
    model("float[4,3,8,8] x")
    _, (shard,) = pack(folder(a=make_samples(3, 0), b=make_samples(1, 1)[0]))
    assert shard["x"].shape == (4, 3, 8, 8)


def test_samples_of_different_shapes_are_in_different_shards(pack, model):
    model("float[n,m] x")
    _, shards = pack(folder(a=np.ones((2, 3), "f4"), b=np.ones(5, "f4"), c=np.ones((1, 5), "f4")))
    assert [shard["x"].shape for shard in shards] == [(2, 3), (2, 5)]


def test_other_files_are_passed_over_and_said(pack, make_samples):
    source = folder(a=make_samples(1, 0))
    Path("src/labels.json").write_text("{}")
    Path("src/.hidden.npy").write_text("")
    Path("src/more").mkdir()
    result, _ = pack(source)
    assert result.code == 0
    assert "note: passed over in src: 2 that are no samples (labels.json)" in result.err


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((3, 8, 8)), "src/a.npy: input 'x' is float64, the model takes float32; convert with"),
        (np.ones((3, 8, 9), "f4"), "axis 3 is 9"),
        (np.ones((8, 8), "f4"), "rank 2; the model takes rank 4"),
        (np.ones((0, 3, 8, 8), "f4"), "no samples in it"),
        (np.full((2, 3, 8, 8), np.nan, "f4"), "src/a.npy:0: input 'x' has 192 NaN or Inf"),
        (np.full((3, 8, 8), np.inf, "f4"), "src/a.npy: input 'x' has 192 NaN or Inf"),
        (np.array([{"a": 1}], object), "holds pickled Python objects"),
        ({"y": np.ones((3, 8, 8), "f4")}, r"a.npz: missing input\(s\) 'x'; extra input\(s\) 'y'"),
    ],
)
def test_arrays_that_do_not_fit(refused, make_samples, array, words):
    refused(folder(a=array, b=make_samples(1, 0)), words)


def test_a_file_that_is_no_array(refused):
    source = folder()
    Path("src/a.npy").write_bytes(pickle.dumps([1]))
    refused(source, "a.npy is damaged or no .npy file")


def test_the_last_of_many_is_bad(refused, make_samples):
    """Found after shards were written: they are gone again."""
    x = make_samples(9, 0)
    x[8, 0, 0, 0] = np.nan
    refused(folder(a=x), "src/a.npy:8: input 'x' has 1 NaN", "--per-shard", 2)


def test_sources_and_outputs_that_are_none(refused, make_samples):
    refused("nowhere", "nowhere: neither a folder, nor file.py:function, nor module:function")
    refused("m.onnx", "m.onnx: neither a folder")
    refused("no:w-here", "no:w-here: neither a folder")
    source = folder()
    refused(source, "src: no samples in it; expected files ending in .npy")
    np.save("src/a.npy", make_samples(1, 0))
    refused(source, "src is not empty; name another", output="src")
    refused(source, "m.onnx is no folder", output="m.onnx")
    refused(source, "there is no folder .*no", output="no/where")
    refused(source, "--scale is for images, and src holds none", *FLOATS)
    refused(source, "not in the range x>=1", "--per-shard", 0)
    refused(source, "not in the range x>=1", "--limit", 0)


def test_the_disk_fills(refused, make_samples, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    source = folder(a=make_samples(5, 0))
    with monkeypatch.context() as fault:
        fault.setattr(write.npy, "write_array", full)
        refused(source, "out cannot be written: No space left on device", code=3)
    monkeypatch.setattr(write.tempfile, "mkdtemp", full)
    refused(source, "out cannot be written: No space left on device", code=3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(refused, make_samples):
    source = folder(a=make_samples(1, 0))
    Path("locked").mkdir(mode=0o555)
    refused(source, "cannot be written: Permission denied", output="locked/out")


# Generators.

YIELDS = "def samples():\n    for i in range(5):\n        yield "


@pytest.mark.parametrize(
    "what",
    [
        "{'x': np.full((3, 8, 8), i, 'f4')}",
        "np.full((3, 8, 8), i, 'f4')",
        "np.full((1, 3, 8, 8), i, 'f4')",
    ],
)
def test_a_generator_of_samples(pack, what):
    result, shards = pack(generator(YIELDS + what), "--per-shard", 2, "--json")
    assert [shard["x"][:, 0, 0, 0].tolist() for shard in shards] == [[0, 1], [2, 3], [4]]
    assert result.document["kind"] == "generator"
    assert sources()["shard-000001:1"] == "gen.py:samples, item 3"


def test_a_module_beside_and_what_it_imports(pack):
    generator("COUNT = 3\n", "helper_of_gen.py")
    generator(
        "def samples():\n    import helper_of_gen\n    yield np.ones((helper_of_gen.COUNT, 3, 8, 8), 'f4')\n",
        "gen_module.py",
    )
    try:
        _, (shard,) = pack("gen_module:samples")
    finally:
        for name in ("gen_module", "helper_of_gen"):
            sys.modules.pop(name, None)
        sys.path.remove(str(Path.cwd()))
    assert shard["x"].shape == (3, 3, 8, 8)


def test_a_generator_that_fills_one_buffer_again_and_again(pack):
    source = generator(
        "def samples():\n    x = np.empty((3, 8, 8), 'f4')\n"
        "    for i in range(3):\n        x[:] = i\n        yield x\n"
    )
    _, (shard,) = pack(source)
    assert shard["x"][:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_generator_without_end_and_what_it_prints(pack):
    source = generator(
        "print('loading')\ndef samples():\n    i = 0\n    while True:\n        print('making', i)\n"
        "        yield np.full((3, 8, 8), i, 'f4')\n        i += 1\n"
    )
    result, (shard,) = pack(source, "--limit", 7, "--json")
    assert len(shard["x"]) == result.document["samples"] == 7
    assert "loading" in result.err
    assert "making 6" in result.err
    assert "making 7" not in result.err


def test_a_list_or_an_array_will_do(pack):
    _, (shard,) = pack(generator("def samples(): return np.ones((4, 3, 8, 8), 'f4')"))
    assert len(shard["x"]) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def samples():\n    return\n    yield", "there were no samples to write"),
        (YIELDS + "{'y': np.ones((3, 8, 8), 'f4')}", r"gen.py:samples, item 0: missing input\(s\) 'x'"),
        (YIELDS + "np.ones((3, 8, 8))", "item 0: input 'x' is float64"),
        (YIELDS + "np.ones((3, 8, 8 + (i == 3)), 'f4')", "item 3: input 'x' has shape"),
        (YIELDS + "np.full((3, 8, 8), [1, 1, np.nan][min(i, 2)], 'f4')", "item 2: input 'x' has 192 NaN"),
        (YIELDS + "[1, 2]", "item 0 holds a list; expected NumPy arrays"),
        (YIELDS + "None", "item 0 holds a NoneType; expected NumPy arrays"),
        (YIELDS + "np.array([{}])", "input 'x' is object"),
        (YIELDS + "1 / (i - 2)", "item 0 holds a float"),
        (
            YIELDS + "np.full((3, 8, 8), 1 // (2 - i), 'f4')",
            r"raised ZeroDivisionError at \S*gen.py:4: .*; -v",
        ),
        ("def samples(): raise SystemExit(0)", r"gen.py:samples raised SystemExit at \S*gen.py:2: 0"),
        ("def samples(path): yield", "raised TypeError: samples.. missing 1 required"),
        ("def samples(): return {'x': 1}", "gen.py:samples returned a dict; expected a generator"),
        ("def samples(): return 3", "gen.py:samples returned a int; expected a generator"),
        ("def sample(): yield", "gen.py has no function 'samples'; nearest: sample"),
        ("def samples(:", "gen.py raised SyntaxError when loaded"),
    ],
)
def test_generators_that_do_not_work(refused, text, words):
    refused(generator(text), words, "--per-shard", 1)


def test_generators_that_are_not_there(refused):
    refused("gen.py:samples", "gen.py: no such generator file")
    refused("no_such_module:samples", "no_such_module raised ModuleNotFoundError when loaded")
    refused(generator(YIELDS + "1"), "--color is for images, and gen.py:samples holds none", "--color", "rgb")


def test_a_bare_array_for_several_inputs(refused, model):
    model("float[n,2] x, int64[n] ids")
    refused(
        generator(YIELDS + "np.ones(2)"), "item 0 is a bare ndarray; expected a dict of the inputs x, ids"
    )


def test_the_users_traceback_with_v(pack):
    result, _ = pack(generator(YIELDS + "unknown"), "-v")
    assert "NameError: name 'unknown' is not defined" in result.err
    assert result.code == 2


@pytest.mark.usefixtures("control_c")
@pytest.mark.parametrize("swallowed", ["KeyboardInterrupt", "ValueError"])
def test_control_c(refused, swallowed):
    """Also where the user's code swallows it."""
    source = generator(
        "import contextlib, signal\ndef samples():\n    for i in range(9):\n        if i == 5:\n"
        f"            with contextlib.suppress({swallowed}):\n"
        "                signal.raise_signal(signal.SIGINT)\n"
        "        yield np.full((3, 8, 8), i, 'f4')\n"
    )
    refused(source, "interrupted; nothing was left half-written", "--per-shard", 2, code=130)


# Images.


def picture(name, size=(8, 8), mode="RGB", value=None):
    Path("src").mkdir(exist_ok=True)
    width, height = size
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    pixels = np.random.default_rng(len(name)).integers(0, 256, shape, np.uint8)
    if value is not None:
        pixels[:] = value
    Image.fromarray(pixels, mode=None).save(f"src/{name}")
    return pixels


def test_images_become_what_the_model_takes(pack):
    a, b = picture("b.png"), picture("a.bmp")
    options = ("--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    result, (shard,) = pack("src", *options, "--json")
    assert result.document["kind"] == "images"
    assert sources() == {"shard-000000:0": "src/a.bmp", "shard-000000:1": "src/b.png"}
    for image, packed in ((b, shard["x"][0]), (a, shard["x"][1])):
        by_hand = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert packed.dtype == np.float32
        assert np.allclose(packed, by_hand.transpose(2, 0, 1), atol=1e-6)


def test_channels_last_and_bgr(pack, model):
    model("float[n,8,8,3] x")
    image = picture("a.png")
    _, (shard,) = pack("src", "--scale", "1", "--color", "bgr", "--mean", "1,2,3")
    assert np.array_equal(shard["x"][0], image[:, :, ::-1] - np.array([1, 2, 3], "f4"))


def test_a_layout_that_the_shape_does_not_say(pack, model, refused):
    model("float[n,c,h,w] x")
    image = picture("a.png", (5, 7))
    refused("src", r"input 'x' has shape \[None, None, None, None\].*give --layout nchw", *FLOATS)
    _, (shard,) = pack("src", *FLOATS, "--layout", "nhwc")
    assert shard["x"].shape == (1, 7, 5, 3)
    assert np.allclose(shard["x"][0], image / 255)


def test_pixels_as_they_are_for_a_model_of_bytes(pack, model, refused):
    model("uint8[n,3,8,8] x")
    image = picture("a.png")
    _, (shard,) = pack("src")
    assert shard["x"].dtype == np.uint8
    assert np.array_equal(shard["x"][0], image.transpose(2, 0, 1))
    refused("src", "takes uint8, the pixels themselves; drop --scale", *FLOATS, output="other")
    model("int8[n,3,8,8] x")
    refused("src", "takes int8, which does not hold pixels from 0 to 255", output="other")


def test_images_are_resized_to_what_the_model_takes(pack, model, refused):
    picture("a.png", (16, 4), value=100)
    picture("b.png", (3, 30), value=200)
    _, (shard,) = pack("src", *FLOATS)
    assert shard["x"].shape == (2, 3, 8, 8)
    assert np.allclose(shard["x"][:, 0, 0, 0], [100 / 255, 200 / 255])
    refused(
        "src", "--resize 9x8: input 'x' takes width 8, height 8", *FLOATS, "--resize", "9x8", output="other"
    )
    model("float[n,3,h,w] x")
    _, shards = pack("src", *FLOATS, output="own")
    assert [shard["x"].shape for shard in shards] == [(1, 3, 4, 16), (1, 3, 30, 3)]
    _, (shard,) = pack("src", *FLOATS, "--resize", "6x4", output="same")
    assert shard["x"].shape == (2, 3, 4, 6)
    model("float[n,3,4,6] x")
    _, (shard,) = pack("src", *FLOATS, output="fixed")
    assert shard["x"].shape == (2, 3, 4, 6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_gray_and_transparent_images_become_rgb(pack, mode):
    image = picture("a.png", mode=mode)
    _, (shard,) = pack("src", "--scale", "1")
    gray = image if mode == "L" else image[:, :, 0]
    expected = image[:, :, :3] if mode == "RGBA" else np.repeat(gray[:, :, None], 3, axis=2)
    assert np.array_equal(shard["x"][0], expected.transpose(2, 0, 1))


def test_a_model_of_gray_images(pack, model, refused):
    model("float[n,1,8,8] x")
    picture("a.png", value=[255, 0, 0])
    _, (shard,) = pack("src", "--scale", "1", "--mean", "70")
    assert np.unique(shard["x"]).tolist() == [6]  # 0.299 of 255, less 70
    refused("src", "--color rgb has 3 channels, input 'x' takes 1", *FLOATS, "--color", "rgb", output="other")
    refused("src", "--mean has 3 numbers; expected 1 or 1", *FLOATS, "--mean", "1,2,3", output="other")


def test_images_of_16_bits_are_refused(refused):
    picture("a.png")
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save("src/b.png")
    refused("src", r"src/b.png: mode I(;16)? has more than 8 bits per channel", *FLOATS)


@pytest.mark.parametrize("keep", [0, 20, -5000])
def test_damaged_images(refused, keep):
    picture("a.png", (60, 60))
    data = Path("src/a.png").read_bytes()
    Path("src/a.png").write_bytes(data[:keep])
    refused("src", "src/a.png: not an image that Pillow can read", *FLOATS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "input 'x' takes floats: --scale 1/255 is"),
        (("--scale", "0"), "'0': expected a number above 0"),
        (("--scale", "1/0"), "'1/0': expected a number above 0, such as"),
        (("--scale", "nan"), "'nan': expected"),
        (("--scale", "1e999999999"), "expected a number"),
        ((*FLOATS, "--std", "1,0,1"), "'0': expected a number above 0"),
        ((*FLOATS, "--mean", "1,,2"), "'': expected a number, such as"),
        ((*FLOATS, "--std", "1,2"), "--std has 2 numbers; expected 1 or 3"),
        ((*FLOATS, "--resize", "8"), "'8': expected width and height"),
        ((*FLOATS, "--resize", "0x8"), "'0x8': expected width and height"),
        ((*FLOATS, "--layout", "hwc"), "'hwc' is not one of"),
        ((*FLOATS, "--color", "gray"), "--color gray has 1 channels, input 'x' takes 3"),
        (("--scale", "1e39"), "a.png: input 'x' has .* NaN or Inf"),
    ],
)
def test_image_options_that_are_wrong(refused, options, words):
    picture("a.png")
    refused("src", words, *options)


def test_models_that_take_no_images(refused, model):
    picture("a.png")
    model("float[n,8] x")
    refused("src", r"input 'x' has shape \[None, 8\]: expected one that takes an image", *FLOATS)
    model("float[n,3,8,8] x, float[n,3,8,8] y")
    refused("src", "images feed a model with one input, this one has 2: x, y; write a generator", *FLOATS)


def test_arrays_and_images_in_one_folder(refused, make_samples):
    picture("a.png")
    np.save("src/b.npy", make_samples(1, 0))
    refused("src", r"src holds arrays \(b.npy\) and images \(a.png\); part them", *FLOATS)


def test_without_pillow(refused, monkeypatch):
    picture("a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused("src", r"reading images takes Pillow; pip install 'trtbuild\[images\]'", *FLOATS, code=3)
