"""A reference -> an engine and its paths."""

from pathlib import Path

import pytest

from trtbuild.engine import engine_folder, open_engine
from trtbuild.errors import InputError

RECIPE = """
[model]
path = "net.onnx"
[calibration]
shards = "calibration"
[validation]
samples = "held-out"
labels = "held-out/labels.json"
metric = "metric.py:score"
max_drop = 0.1
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("engines/net")
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.mark.parametrize(
    ("given", "meant"),
    [("timing", "engines/net/timing"), ("/var/timing", "/var/timing"), ("none", "none"), (None, None)],
)
def test_the_timing_cache_lies_beside_the_recipe(engine, given, meant):
    overrides = () if given is None else (f"tensorrt.timing_cache='{given}'",)
    assert open_engine("net", overrides).recipe.tensorrt.timing_cache == meant


@pytest.mark.parametrize("reference", ["net", "engines/net", "engines/net/", "./engines/net"])
def test_by_name_and_by_folder(engine, reference):
    opened = open_engine(reference)
    assert opened.name == "net"
    assert opened.folder == engine
    assert opened.model == engine / "net.onnx"
    assert opened.shards == opened.require_shards() == engine / "calibration"
    assert opened.samples == opened.require_samples() == engine / "held-out"
    assert opened.labels == engine / "held-out" / "labels.json"
    assert opened.builds == engine / "builds"
    assert engine_folder(reference) == engine


def test_from_inside(engine, monkeypatch):
    monkeypatch.chdir(engine)
    assert open_engine(".").name == "net"


def test_an_absolute_folder(engine, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert open_engine(str(tmp_path / engine)).model == tmp_path / engine / "net.onnx"


def test_a_folder_goes_before_a_name(engine):
    Path("net").mkdir()
    assert open_engine("net").folder == engine  # a folder without a recipe is none
    Path("net/recipe.toml").write_text("")
    assert open_engine("net").folder == Path("net")


def test_options_go_before_the_recipe(engine):
    opened = open_engine(
        "net", ("precision.default=fp16",), ("last:1",), calib=Path("other"), samples=Path("more")
    )
    assert opened.recipe.precision.default == "fp16"
    assert [str(pin) for pin in opened.recipe.pin] == ["last:1"]
    assert (opened.shards, opened.samples) == (Path("other"), Path("more"))


def test_a_bare_model(engine):
    opened = open_engine("deep/net.onnx", calib=Path("shards"))
    assert (opened.name, opened.model, opened.folder) == ("net", Path("deep/net.onnx"), Path("deep"))
    assert opened.builds is None
    assert opened.labels is None
    assert opened.require_shards() == Path("shards")
    with pytest.raises(InputError, match="--samples"):
        opened.require_samples()
    with pytest.raises(InputError, match="--calib"):
        open_engine("net.onnx").require_shards()


def test_a_bare_model_chooses_its_ranges_by_what_they_do(engine):
    assert open_engine("net.onnx").recipe.calibration.method == "auto"
    chosen = open_engine("net.onnx", ("calibration.method=mse", "calibration.tensors.x=entropy"))
    assert (chosen.recipe.calibration.method, chosen.recipe.calibration.tensors) == ("mse", {"x": "entropy"})
    assert open_engine("net").recipe.calibration.method == "minmax", "a recipe says what it wants"


@pytest.mark.parametrize("reference", ["nett", "engines/nett", "", "engines", "engines/net/recipe.toml"])
def test_no_such_engine(engine, reference):
    with pytest.raises(InputError, match=r"neither a folder with a recipe\.toml, nor a name under engines/"):
        open_engine(reference)
    assert engine_folder(reference) is None


def test_the_nearest_name_is_shown(engine):
    with pytest.raises(InputError, match="; nearest: net"):
        open_engine("nett")


def test_a_wrong_recipe_names_its_file(engine):
    (engine / "recipe.toml").write_text("[modle]\npath = 'x'")
    with pytest.raises(InputError, match=r"engines/net/recipe\.toml: unknown key 'modle'; nearest: model"):
        open_engine("net")


def test_a_wrong_override_of_a_bare_model(engine):
    with pytest.raises(InputError, match="--set"):
        open_engine("x.onnx", ("precision.defult=fp16",))


TUNED = f"""
[tuned]
model = "{"0" * 64}"
trtbuild = "0.1.0"
outcome = "passed"
[calibration]
method = "auto"
[[pin]]
name = "Conv.5"
"""


class TestTuned:
    @pytest.fixture
    def tuned(self, engine):
        path = engine / "tuned.toml"
        path.write_text(TUNED)
        return path

    def test_it_goes_before_the_recipe(self, tuned):
        opened = open_engine("net", pins=("last:1",))
        assert opened.recipe.calibration.method == "auto"
        assert [str(pin) for pin in opened.recipe.pin] == ["Conv.5", "last:1"]
        assert opened.tuned.origin.model == "0" * 64
        assert opened.shards == opened.folder / "calibration"

    def test_an_override_goes_before_it(self, tuned):
        assert open_engine("net", ("calibration.method=mse",)).recipe.calibration.method == "mse"

    def test_none_there(self, engine):
        opened = open_engine("net")
        assert opened.recipe.tuned
        assert opened.tuned is None

    @pytest.mark.parametrize("where", ["recipe", "override"])
    def test_none_wanted(self, engine, tuned, where):
        """Then nobody reads it either: it may be damaged."""
        tuned.write_text("[tuned")
        if where == "recipe":
            (engine / "recipe.toml").write_text("tuned = false\n" + RECIPE)
        opened = open_engine("net", ("tuned=false",) if where == "override" else ())
        assert opened.tuned is None
        assert (opened.recipe.calibration.method, opened.recipe.pin) == ("minmax", ())

    def test_a_wrong_one_names_its_file(self, tuned):
        tuned.write_text(TUNED.replace("outcome", "outcoem"))
        with pytest.raises(InputError, match=r"^engines/net/tuned\.toml: .*unknown key 'tuned\.outcoem'"):
            open_engine("net")

    def test_the_recipes_own_mistakes_are_not_covered_by_it(self, engine, tuned):
        (engine / "recipe.toml").write_text('[calibration]\nmethod = "atuo"')
        with pytest.raises(InputError, match=r"^engines/net/recipe\.toml: calibration: .*'atuo'"):
            open_engine("net")

    @pytest.mark.parametrize("kind", ["folder", "link to nowhere"])
    def test_no_file(self, engine, kind):
        path = engine / "tuned.toml"
        path.mkdir() if kind == "folder" else path.symlink_to("nowhere.toml")
        with pytest.raises(OSError, match=r"engines/net/tuned\.toml"):
            open_engine("net")

    def test_a_bare_model_has_none(self, engine, tuned):
        opened = open_engine(str(engine / "net.onnx"))
        assert opened.tuned is None
        assert opened.recipe.pin == ()
