"""tuned.toml: written and read back, strict as a recipe is, and what goes before what."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trtbuild import recipe
from trtbuild.errors import InputError
from trtbuild.names import exactly, matcher
from trtbuild.recipe import Pin, Tuned, toml, tuned
from trtbuild.recipe.tuned import Origin, Setting

MODEL = "0123456789abcdef" * 4
FILE = f"""# what tune says of it
[tuned]
model = "{MODEL}"
trtbuild = "0.1.0"
outcome = "passed"
[calibration]
method = "auto"
equalize = 0.5
bias_correction = true
[[pin]]
name = "Conv.5"
reason = "tune: 0.99, without it 0.95"
[[pin]]
type = "Gemm"
to = "fp16"
"""
RECIPE = """
[[pin]]
name = "Conv.1"
reason = "by hand"
[calibration]
shards = "calib"
method = "percentile"
percentile = 99.9
equalize = 0.25
bias_correction = true
[calibration.types]
Softmax = "minmax"
[calibration.tensors]
t = "percentile"
"""


def origin(outcome: str = "passed") -> Origin:
    return Origin.model_validate({"model": MODEL, "trtbuild": "0.1.0", "outcome": outcome})


def found(calibration: Setting, *pins: Pin, outcome: str = "passed") -> Tuned:
    return Tuned(tuned=origin(outcome), calibration=calibration, pin=pins)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuned.toml"


def parsed(path: Path, text: str) -> Tuned:
    path.write_text(text, encoding="utf-8")
    return tuned.load(path)


def error_of(path: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        parsed(path, text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


class TestRead:
    def test_every_key_arrives(self, path: Path) -> None:
        assert parsed(path, FILE) == found(
            Setting(method="auto", equalize=0.5, bias_correction=True),
            Pin(name="Conv.5", reason="tune: 0.99, without it 0.95"),
            Pin(type="Gemm", to="fp16"),
        )

    def test_repairs_and_pins_are_off_where_not_given(self, path: Path) -> None:
        text = f'[tuned]\nmodel="{MODEL}"\ntrtbuild=""\noutcome="failed"\n[calibration]\nmethod="mse"\n'
        bare = parsed(path, text)
        assert (bare.calibration.equalize, bare.calibration.bias_correction, bare.pin) == (None, False, ())

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("[tuned]", "[tunde]", "no [tuned] table, so tune did not write it"),
            ("outcome", "outcoem", "unknown key 'tuned.outcoem'; nearest: outcome"),
            ("equalize", "equalise", "unknown key 'calibration.equalise'; nearest: equalize"),
            ('name = "Conv.5"', 'nmae = "Conv.5"', "unknown key 'pin.0.nmae'; nearest: name"),
            ("[calibration]", "[calibrate]", "unknown key 'calibrate'; nearest: calibration"),
            ("[calibration]", "[calibrate]", "calibration: Field required"),
            ("[calibration]", "[calibration]\nshards = 's'", "unknown key 'calibration.shards'"),
            ("[calibration]", "[calibration]\npercentile = 99", "unknown key 'calibration.percentile'"),
            (MODEL, MODEL[:-1], "tuned.model: String should match pattern"),
            (MODEL, MODEL + "0", "tuned.model: String should match pattern"),
            ('"passed"', '"won"', "tuned.outcome: should be 'passed with margin', 'passed', 'failed' or"),
            ('method = "auto"', "", "calibration.method: Field required"),
            ('"auto"', '"atuo"', "calibration.method: calibration method 'atuo' is not known"),
            ('"auto"', '"atuo"', "; or auto"),
            ('"auto"', '"percentile:101"', "calibration.method: "),
            ("0.5", "1.5", "calibration.equalize: should be less than or equal to 1, got 1.5"),
            ("0.5", "nan", "calibration.equalize: should be a finite number"),
            ("true", "1", "calibration.bias_correction: should be a valid boolean, got 1"),
            ('"Conv.5"', '"re:("', "pin.0: 're:(' is not a regular expression"),
            ('"fp16"', '"int4"', "pin.1.to: "),
            ("[tuned]", "tuned = 3\n[tunde]", "tuned: should be a table, got 3"),
            ("[tuned]", "[tuned", "not valid TOML: "),
            ('"0.1.0"', "0.1.0", "not valid TOML: "),
        ],
    )
    def test_what_is_wrong_is_named(self, path: Path, old: str, new: str, words: str) -> None:
        assert old in FILE
        assert words in error_of(path, FILE.replace(old, new, 1))

    @pytest.mark.parametrize("content", [b"\xff", b"\x00", b"a = " + b"[" * 10_000])
    def test_no_text_at_all(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"tuned\.toml: not valid TOML: "):
            tuned.load(path)


pins = st.builds(
    lambda selector, to, reason: Pin(**selector, to=to, reason=reason),
    st.one_of(
        st.builds(lambda name: {"name": exactly(name)}, st.text() | st.text().map("glob:{}".format)),
        st.builds(lambda text: {"type": text}, st.text()),
        st.builds(lambda count: {"position": "last", "count": count}, st.none() | st.integers(1, 10**30)),
        st.builds(
            lambda limit: {"weights_below": limit},
            st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        ),
    ),
    st.sampled_from(["int8", "fp16", "bf16", "fp32"]),
    st.none() | st.text(),
)
calibrations = st.builds(
    Setting,
    method=st.sampled_from(["auto", "minmax", "mse", "entropy"])
    | st.floats(0, 100, exclude_min=True).map("percentile:{}".format),
    equalize=st.none() | st.floats(0, 1),
    bias_correction=st.booleans(),
)
everything = st.builds(
    lambda origin, calibration, pin: Tuned(tuned=origin, calibration=calibration, pin=tuple(pin)),
    st.builds(
        Origin,
        model=st.just(MODEL),
        trtbuild=st.text(),
        outcome=st.sampled_from(["passed with margin", "passed", "failed", "interrupted"]),
    ),
    calibrations,
    st.lists(pins, max_size=4),
)
ANY_LINE = st.text(st.characters())  # lone surrogates too, as in the name of a file that is no UTF-8


class TestWritten:
    @given(given=everything, comment=st.lists(ANY_LINE, max_size=3))
    @example(found(Setting(method="auto")), ["[calibration]\nmethod = 'mse'", "\r\n\x00\x7f\ud800"])
    @example(found(Setting(method="percentile:99.99999")), [])
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_is_read_back_as_it_was(self, path: Path, given: Tuned, comment: list[str]) -> None:
        tuned.write(path, given, comment)
        assert tuned.load(path) == given
        assert path.read_bytes().count(b"\n# ") <= len(comment)

    @given(name=st.text() | st.text().map("re:{}".format), other=st.text())
    @example("glob:*", "x")
    @example("re:.*", "x")
    @example("re:a\nb", "re:a b")
    @example('"\\\x7f\x85\u2028', "")
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_pin_by_an_exact_name_means_that_node(self, path: Path, name: str, other: str) -> None:
        tuned.write(path, found(Setting(method="auto"), Pin(name=exactly(name))))
        (pin,) = tuned.load(path).pin
        assert pin.name is not None
        assert matcher(pin.name)(name)
        assert matcher(pin.name)(other) == (other == name)

    def test_reads_well(self, path: Path) -> None:
        tuned.write(path, parsed(path, FILE), ["what tune says of it"])
        assert path.read_text() == FILE

    def test_a_failure_leaves_the_file_that_was_there(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_text(FILE)
        with pytest.raises(UnicodeEncodeError):
            tuned.write(path, found(Setting(method="mse"), Pin(name="\ud800")))
        assert path.read_text() == FILE
        assert list(path.parent.iterdir()) == [path]


class TestWrittenOver:
    @pytest.mark.parametrize("content", [None, FILE, "[tuned]\nolder = 1"])
    def test_what_tune_wrote(self, path: Path, content: str | None) -> None:
        if content is not None:
            path.write_text(content)
        tuned.check_replaceable(path)
        tuned.write(path, found(Setting(method="mse")))
        assert tuned.load(path).calibration.method == "mse"

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", r"tuned.toml has no \[tuned\] table, so tune did not write it; move it away"),
            (RECIPE, r"tuned.toml has no \[tuned\] table"),
            ("[tuned", "tuned.toml: not valid TOML: .*; tune would write over it: move it away"),
        ],
    )
    def test_not_what_somebody_else_wrote(self, path: Path, content: str, words: str) -> None:
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            tuned.check_replaceable(path)
        with pytest.raises(InputError, match=words):
            tuned.write(path, found(Setting(method="mse")))
        assert path.read_text() == content

    def test_a_folder(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            tuned.check_replaceable(path)


class TestPrecedence:
    def merged(self, by_tune: Tuned, *overrides: str, pins: tuple[str, ...] = ()) -> recipe.Recipe:
        return recipe.parse(toml.tomllib.loads(RECIPE), "recipe.toml", overrides, pins, by_tune)

    def test_pins(self) -> None:
        by_tune = found(Setting(method="auto"), Pin(name="Conv.1"), Pin(name="Conv.5"))
        pins = self.merged(by_tune, pins=("Conv.9", "Conv.5=int8")).pin
        assert [str(pin) for pin in pins] == ["Conv.1", "Conv.5", "Conv.1", "Conv.9", "Conv.5=int8"]
        assert [pin.reason for pin in pins] == [None, None, "by hand", None, None]

    def test_an_override_empties_the_own_pins_only(self) -> None:
        by_tune = found(Setting(method="auto"), Pin(name="Conv.5"))
        assert [str(pin) for pin in self.merged(by_tune, "pin=[]").pin] == ["Conv.5"]

    def test_method_and_repairs_replace_the_recipes(self) -> None:
        section = self.merged(found(Setting(method="auto"))).calibration
        assert (section.method, section.equalize, section.bias_correction) == ("auto", None, False)
        by_tune = found(Setting(method="mse", equalize=0.75, bias_correction=True))
        section = self.merged(by_tune).calibration
        assert (section.method, section.equalize, section.bias_correction) == ("mse", 0.75, True)

    def test_the_rest_stays(self) -> None:
        section = self.merged(found(Setting(method="auto"))).calibration
        assert section.shards == "calib"
        assert str(section.method_of("t")) == "percentile:99.9", "as the recipe means it"
        assert str(section.method_of("s", "Softmax")) == "minmax"

    def test_a_percentile_is_not_that_of_the_recipe(self) -> None:
        section = self.merged(found(Setting(method="percentile"))).calibration
        assert str(section.method_of("s")) == "percentile:99.99"
        assert str(section.method_of("t")) == "percentile:99.9"

    def test_overrides_go_before(self) -> None:
        by_tune = found(Setting(method="auto", equalize=0.5))
        section = self.merged(by_tune, "calibration.method=minmax").calibration
        assert (section.method, section.equalize) == ("minmax", 0.5)
        assert self.merged(by_tune, "calibration.equalize=0.1").calibration.equalize == 0.1
        section = self.merged(by_tune, "calibration={method='mse'}").calibration
        assert (section.method, section.equalize, section.shards) == ("mse", None, "shards")

    def test_the_recipes_own_mistake_is_told(self) -> None:
        with pytest.raises(InputError, match=r"^recipe\.toml: calibration: should be a table, got 5"):
            recipe.parse({"calibration": 5}, "recipe.toml", tuned=found(Setting(method="auto")))

    def test_without_a_calibration_of_its_own(self) -> None:
        table: dict[str, object] = {}
        parsed = recipe.parse(table, "recipe.toml", tuned=found(Setting(method="auto")))
        assert parsed.calibration.method == "auto"
        assert table == {}


@pytest.mark.parametrize(
    ("calibration", "pins", "outcome", "said"),
    [
        ({"method": "auto", "equalize": 0.5}, 2, "passed with margin", "auto, equalized; 2 pins"),
        ({"method": "minmax"}, 1, "passed", "minmax; 1 pin"),
        ({"method": "mse", "equalize": 0.0}, 0, "failed", "mse, equalized; 0 pins (failed)"),
        (
            {"method": "percentile", "equalize": 1.0, "bias_correction": True},
            3,
            "interrupted",
            "percentile:99.99, equalized, biases corrected; 3 pins (interrupted)",
        ),
    ],
)
def test_what_is_applied_in_a_line(
    calibration: dict[str, object], pins: int, outcome: str, said: str
) -> None:
    by_tune = found(Setting.model_validate(calibration), *[Pin(name="Conv")] * pins, outcome=outcome)
    assert str(by_tune) == said
