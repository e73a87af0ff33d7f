"""The recipe is strict: what it does not understand is an error that names the place and the nearest key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from calibrators.method import Method
from trtbuild import recipe
from trtbuild.errors import InputError, as_trtbuild_error
from trtbuild.recipe import Pin, Recipe

FULL = """
[model]
path = "m.onnx"
[inputs.x]
min = [1, 3, 48, 320]
opt = [8, 3, 48, 320]
max = [32, 3, 48, 320]
[precision]
default = "int8"
fallback = "fp16"
budget = 0.10
[[pin]]
type = "Softmax"
[[pin]]
name = "p2o.Conv.3"
to = "fp16"
reason = "narrow"
[[pin]]
pattern = "layernorm"
[[pin]]
position = "last"
count = 2
[[pin]]
weights_below = 1e-3
[calibration]
shards = "calib"
method = "percentile"
percentile = 99.99
[calibration.tensors]
"glob:*hard*" = "minmax"
"exact" = "percentile:99"
[validation]
samples = "val"
labels = "val/labels.json"
metric = "metric.py:exact_match"
max_drop = 0.01
layer_samples = 4
[validation.outputs]
cosine = 0.99
sqnr_db = 20
max_abs = 0.5
[tensorrt-rtx]
compute_capabilities = ["8.9"]
"""


def parse(text: str = "", *overrides: str, pins: tuple[str, ...] = ()) -> Recipe:
    return recipe.parse(recipe.tomllib.loads(text), "recipe.toml", overrides, pins)


def error_of(text: str = "", *overrides: str, pins: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, *overrides, pins=pins)
    return str(caught.value)


def test_every_key_arrives() -> None:
    full = parse(FULL)
    assert full.model.path == "m.onnx"
    assert full.inputs["x"].opt == (8, 3, 48, 320)
    assert (full.precision.default, full.precision.fallback, full.precision.budget) == ("int8", "fp16", 0.1)
    assert [str(pin) for pin in full.pin] == [
        "type:Softmax",
        "p2o.Conv.3=fp16",
        "pattern:layernorm",
        "last:2",
        "weights-below:0.001",
    ]
    assert full.pin[1].reason == "narrow"
    assert full.calibration.shards == "calib"
    assert full.validation.metric == "metric.py:exact_match"
    assert full.validation.outputs.sqnr_db == 20.0
    assert full.tensorrt_rtx.compute_capabilities == ("8.9",)


def test_an_empty_recipe_has_the_defaults() -> None:
    empty = parse()
    assert empty == Recipe()
    assert (empty.precision.default, empty.precision.fallback, empty.precision.budget) == (
        "int8",
        "fp32",
        None,
    )
    assert empty.calibration.method_of("t") == Method("minmax")


UNKNOWN_KEYS = [
    ("[precison]", "precison", "precision"),
    ("[tensorrt_rtx]", "tensorrt_rtx", "tensorrt-rtx"),
    ('[model]\nfile = "m"\npaht = "m"', "model.paht", "path"),
    ("[inputs.x]\nmin=[1]\nopt=[1]\nmax=[1]\nmaxx=[1]", "inputs.x.maxx", "max"),
    ('[precision]\ndefualt = "int8"', "precision.defualt", "default"),
    ('[[pin]]\nname = "a"\n[[pin]]\nname = "b"\nraeson = "c"', "pin.1.raeson", "reason"),
    ('[[pin]]\ntpye = "Softmax"', "pin.0.tpye", "type"),
    ('[calibration]\nmehtod = "minmax"', "calibration.mehtod", "method"),
    ("[validation]\nmaxdrop = 1", "validation.maxdrop", "max_drop"),
    ("[validation.outputs]\ncosin = 1", "validation.outputs.cosin", "cosine"),
    (
        '[tensorrt-rtx]\ncompute_capability = ["8.9"]',
        "tensorrt-rtx.compute_capability",
        "compute_capabilities",
    ),
]


@pytest.mark.parametrize(("text", "key", "near"), UNKNOWN_KEYS, ids=[key for _, key, _ in UNKNOWN_KEYS])
def test_an_unknown_key_is_named_with_the_nearest(text: str, key: str, near: str) -> None:
    message = error_of(text)
    assert message.startswith("recipe.toml: ")
    assert f"unknown key {key!r}; nearest: {near}" in message


def test_all_mistakes_are_told_at_once() -> None:
    message = error_of('[precision]\ndefault = "int4"\nbudgte = 1\n[validation]\nmax_drop = -1')
    assert "precision.default" in message
    assert "budgte" in message
    assert "validation.max_drop" in message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[precision]\nbudget = "0.1"', "precision.budget"),
        ("[precision]\nbudget = true", "precision.budget"),
        ("[precision]\nbudget = 1.01", "precision.budget"),
        ("[precision]\nbudget = -0.1", "precision.budget"),
        ("[precision]\nbudget = nan", "precision.budget"),
        ('[precision]\nfallback = "int8"', "precision.fallback"),
        ("[precision]\ndefault = 8", "precision.default"),
        ("precision = 3", "precision"),
        ("[inputs.x]\nmin=[true]\nopt=[1]\nmax=[1]", "inputs.x.min.0"),
        ("[inputs.x]\nmin=[-1]\nopt=[1]\nmax=[1]", "inputs.x.min.0"),
        ("[inputs.x]\nmin=[1.5]\nopt=[2]\nmax=[2]", "inputs.x.min.0"),
        ("[inputs.x]\nmin=[1]\nopt=[1]", "inputs.x.max"),
        ('pin = "last:2"', "pin"),
        ('[[pin]]\nposition = "middle"', "pin.0.position"),
        ('[[pin]]\nposition = "last"\ncount = 0', "pin.0.count"),
        ('[[pin]]\nposition = "last"\ncount = "2"', "pin.0.count"),
        ("[[pin]]\nweights_below = 0", "pin.0.weights_below"),
        ("[[pin]]\nweights_below = inf", "pin.0.weights_below"),
        ('[[pin]]\nname = "a"\nto = "tf32"', "pin.0.to"),
        ('[calibration]\nmethod = "percentile"\npercentile = 101', "calibration.percentile"),
        ("[validation.outputs]\ncosine = 1.1", "validation.outputs.cosine"),
        ("[validation.outputs]\ncosine = nan", "validation.outputs.cosine"),
        ("[validation.outputs]\nsqnr_db = nan", "validation.outputs.sqnr_db"),
        ("[validation.outputs]\nmax_abs = inf", "validation.outputs.max_abs"),
        ("[validation]\nlayer_samples = 0", "validation.layer_samples"),
        ("[validation]\nlayer_memory_gb = 0", "validation.layer_memory_gb"),
        ('[tensorrt]\nmode = "both"', "tensorrt.mode"),
        ('[tensorrt]\ncalibrator = "mse"', "tensorrt.calibrator"),
        ("[tensorrt]\nworkspace_gb = 0", "tensorrt.workspace_gb"),
        ("[tensorrt]\nworkspace_gb = 1e30", "tensorrt.workspace_gb"),
        ("[tensorrt]\noptimization_level = 9", "tensorrt.optimization_level"),
        ("[tensorrt]\noptimization_level = true", "tensorrt.optimization_level"),
        ("[tensorrt]\ndla_core = -1", "tensorrt.dla_core"),
        ("[tensorrt]\ntf32 = 0", "tensorrt.tf32"),
        ('[tensorrt]\ntactic_sources = "CUDNN"', "tensorrt.tactic_sources"),
        ('[tensorrt]\ntactic_sources = ["CUDNN", 1]', "tensorrt.tactic_sources"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(text: str, place: str) -> None:
    assert f"recipe.toml: {place}: " in error_of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tensorrt]\ndla_core = -1", "tensorrt.dla_core: should be greater than or equal to 0, got -1"),
        ('[tensorrt]\nworkspace_gb = "4"', "tensorrt.workspace_gb: should be a valid number, got '4'"),
        ("tensorrt = 5", "tensorrt: should be a table, got 5"),
        ("pin = 5", "pin: should be a list, got 5"),
        ("[calibration]\ntensors = [1]", "calibration.tensors: should be a table, got [1]"),
        (
            '[tensorrt]\ntactic_sources = "CUDNN"',
            "tensorrt.tactic_sources: should be 'default', 'none' or a list of names, got 'CUDNN'",
        ),
        ("[inputs.x]\nmin=[1]\nopt=[1]", "inputs.x.max: Field required"),
        (f'[precision]\ndefault = "{"x" * 99}"', f"or 'fp32', got '{'x' * 59}"),
    ],
)
def test_a_wrong_value_is_shown_beside_what_was_expected(text: str, message: str) -> None:
    assert error_of(text).endswith(message)


def test_tactic_sources() -> None:
    for given in ("default", "none"):
        assert parse(f'[tensorrt]\ntactic_sources = "{given}"').tensorrt.tactic_sources == given
    assert parse('[tensorrt]\ntactic_sources = ["A", "B"]').tensorrt.tactic_sources == ("A", "B")


@pytest.mark.parametrize(
    "shapes",
    ["min=[2]\nopt=[1]\nmax=[4]", "min=[1]\nopt=[8]\nmax=[4]", "min=[1, 3]\nopt=[1]\nmax=[1]"],
)
def test_shapes_are_ordered(shapes: str) -> None:
    assert "inputs.x: needs min <= opt <= max on every axis" in error_of(f"[inputs.x]\n{shapes}")


@pytest.mark.parametrize(
    "pin",
    [
        'reason = "no selector"',
        'name = "a"\ntype = "Softmax"',
        'pattern = "gelu"\nposition = "last"',
        'name = "a"\nweights_below = 1.0',
    ],
)
def test_a_pin_has_exactly_one_selector(pin: str) -> None:
    assert "pin.0: a pin needs exactly one of name, type, trt_type, pattern" in error_of(f"[[pin]]\n{pin}")


def test_count_goes_with_position() -> None:
    assert "count goes with position" in error_of('[[pin]]\nname = "a"\ncount = 2')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[pin]]\nname = "re:("', "pin.0: 're:(' is not a regular expression"),
        ('[[pin]]\nname = "re:a{99999999999}"', "pin.0: "),
        ('[calibration.tensors]\n"re:(" = "minmax"', "calibration: 're:(' is not a regular expression"),
        ('[calibration]\nmethod = "enthropy"', "calibration: calibration method 'enthropy' is not known"),
        ('[calibration.tensors]\nx = "percentile:0"', "calibration: calibration method 'percentile:0"),
        ('[calibration]\nmethod = "percentile:x"', "calibration: calibration method 'percentile:x'"),
    ],
)
def test_what_other_modules_refuse_is_still_an_error_of_the_recipe(text: str, expected: str) -> None:
    assert error_of(text).startswith(f"recipe.toml: {expected}")


@pytest.mark.parametrize(
    ("calibration", "method"),
    [
        ("", Method("minmax")),
        ('method = "entropy"', Method("entropy")),
        ('method = "percentile"', Method.parse("percentile")),
        ('method = "percentile"\npercentile = 99.9', Method("percentile", 99.9)),
        ('method = "percentile"\npercentile = 100', Method("percentile", 100.0)),
        ('method = "percentile:99.5"', Method("percentile", 99.5)),
        ('method = "percentile:99.5"\npercentile = 99.9', Method("percentile", 99.5)),
        ('method = "minmax"\npercentile = 99.9', Method("minmax")),
        ('percentile = 99.9\n[calibration.tensors]\n"t1" = "percentile"', Method("percentile", 99.9)),
        ('[calibration.tensors]\n"glob:t*" = "mse"\n"t1" = "entropy"', Method("entropy")),
        ('[calibration.tensors]\n"t1" = "entropy"\n"glob:t*" = "mse"', Method("mse")),
        ('[calibration.tensors]\n"t" = "entropy"\n"re:t" = "mse"', Method("minmax")),
        ('method = "auto"', "auto"),
        ('[calibration.tensors]\n"glob:*" = "entropy"\n"t1" = "auto"', "auto"),
        ('[calibration.types]\nConv = "entropy"', Method("minmax")),
    ],
)
def test_the_last_matching_method_wins(calibration: str, method: Method | str) -> None:
    assert parse(f"[calibration]\n{calibration}").calibration.method_of("t1") == method


@pytest.mark.parametrize(
    ("tensor", "op_type", "method"),
    [
        ("t1", "Conv", Method("entropy")),
        ("t1", "Relu", "auto"),
        ("t1", "Add", Method("minmax")),
        ("t1", None, Method("minmax")),
        ("x1", "Conv", Method("mse")),
        ("x1", "Relu", Method("mse")),
        ("x1", None, Method("mse")),
    ],
)
def test_a_pattern_goes_before_a_type_and_a_type_before_the_rest(
    tensor: str, op_type: str | None, method: Method | str
) -> None:
    section = parse(
        '[calibration.tensors]\n"glob:x*" = "mse"\n[calibration.types]\nConv = "entropy"\nRelu = "auto"'
    ).calibration
    assert section.method_of(tensor, op_type) == method


def test_a_table_is_looked_up_by_all_methods() -> None:
    """Tables that users have stored stay valid: without types, the text is what it always was."""
    plain = '[calibration]\nmethod = "percentile"\n[calibration.tensors]\n"glob:x*" = "mse"\n'
    described = parse(plain).calibration.describe()
    assert described == '[["", "percentile:99.99"], ["glob:x*", "mse"]]'
    texts = [
        '[calibration.types]\nConv = "entropy"',
        '[calibration.types]\nConv = "mse"',
        '[calibration.types]\nRelu = "mse"',
        '[calibration.types]\nRelu = "mse"\nConv = "mse"',
        '[calibration.tensors]\nConv = "mse"',
        '[calibration]\nmethod = "auto"',
    ]
    keys = {parse(text).calibration.describe() for text in texts}
    assert len(keys) == len(texts)
    order = '[calibration.types]\nConv = "mse"\nRelu = "mse"'
    assert parse(order).calibration.describe() in keys, "which type comes first does not matter"


def test_an_unknown_method_is_told_of_auto_too() -> None:
    for text in ('method = "outo"', '[calibration.types]\nConv = "outo"'):
        assert re.search(
            r"'outo' is not known; expected minmax, .*; or auto", error_of(f"[calibration]\n{text}")
        )


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        ('metric = "m.py:f"', "a metric needs labels and max_drop"),
        ('metric = "m.py:f"\nlabels = "l.json"', "a metric needs labels and max_drop"),
        ('metric = "m.py:f"\nmax_drop = 0.1', "a metric needs labels and max_drop"),
        ('labels = "l.json"', "mean nothing without a metric"),
        ("max_drop = 0.0", "mean nothing without a metric"),
        ('metric = "m.py"\nlabels = "l"\nmax_drop = 1', "'file.py:function'"),
        ('metric = "m.txt:f"\nlabels = "l"\nmax_drop = 1', "'file.py:function'"),
        ('metric = "m.py:1f"\nlabels = "l"\nmax_drop = 1', "'file.py:function'"),
    ],
)
def test_a_metric_is_complete(validation: str, expected: str) -> None:
    assert expected in error_of(f"[validation]\n{validation}")


PINS = [
    ("p2o.Conv.3", {"name": "p2o.Conv.3"}),
    ("glob:*/attn/*", {"name": "glob:*/attn/*"}),
    ("re:Conv_[0-9]+", {"name": "re:Conv_[0-9]+"}),
    ("re:a=b", {"name": "re:a=b"}),
    ("type:Softmax", {"type": "Softmax"}),
    ("pattern:layernorm", {"pattern": "layernorm"}),
    ("first:3", {"position": "first", "count": 3}),
    ("last:1", {"position": "last", "count": 1}),
    ("weights-below:1e-3", {"weights_below": 0.001}),
    ("type:Softmax=fp16", {"type": "Softmax", "to": "fp16"}),
    ("last:2=bf16", {"position": "last", "count": 2, "to": "bf16"}),
    ("x=int8", {"name": "x", "to": "int8"}),
    ("x=fp32", {"name": "x"}),
    ("a=b", {"name": "a=b"}),
    ("a=b=fp16", {"name": "a=b", "to": "fp16"}),
    ("a=fp16=fp32", {"name": "a=fp16"}),
    ("Conv:0", {"name": "Conv:0"}),
    ("model/Conv:0=fp16", {"name": "model/Conv:0", "to": "fp16"}),
    ("first", {"name": "first"}),
    ("last", {"name": "last"}),
    ("type", {"name": "type"}),
    ("weights-below", {"name": "weights-below"}),
    ("FIRST:1", {"name": "FIRST:1"}),
]


@pytest.mark.parametrize(("text", "fields"), PINS, ids=[text for text, _ in PINS])
def test_pin_grammar(text: str, fields: dict[str, Any]) -> None:
    assert Pin.parse(text) == Pin(**fields)


@pytest.mark.parametrize("text", [text for text, _ in PINS])
def test_a_pin_reads_back_from_its_text(text: str) -> None:
    pin = Pin.parse(text)
    if pin.name == "a=fp16":  # only a name that ends like a precision must be written out
        assert str(pin) == "a=fp16"
    else:
        assert Pin.parse(str(pin)) == pin


@pytest.mark.parametrize(
    "text",
    [
        "first:",
        "first:x",
        "last:0",
        "last:-1",
        "last:1.5",
        "weights-below:",
        "weights-below:x",
        "weights-below:0",
        "weights-below:nan",
        "re:(",
        "re:(=fp16",
    ],
)
def test_a_bad_pin_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"^--pin ") as caught:
        Pin.parse(text)
    assert text in str(caught.value)


def test_pins_of_the_command_line_come_last() -> None:
    both = parse('[[pin]]\nname = "a"', pins=("b", "a=int8"))
    assert [str(pin) for pin in both.pin] == ["a", "b", "a=int8"]


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("precision.budget=0.2", "precision", "budget", 0.2),
        ("precision.budget = 1", "precision", "budget", 1.0),
        ("precision.default=fp16", "precision", "default", "fp16"),
        ('precision.default="fp16"', "precision", "default", "fp16"),
        ("calibration.shards=../x=y", "calibration", "shards", "../x=y"),
        ("validation.layer_samples=2", "validation", "layer_samples", 2),
    ],
)
def test_set_overrides_a_key(override: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(parse(FULL, override), section), key) == value


def test_set_reaches_nested_tables_and_lists() -> None:
    assert parse(FULL, "pin=[]").pin == ()
    assert parse("", "validation.outputs.cosine=0.5").validation.outputs.cosine == 0.5
    assert parse("", 'pin=[{name = "a"}]').pin == (Pin(name="a"),)
    shapes = ("inputs.x.min=[1]", "inputs.x.opt=[2]", "inputs.x.max=[3]")
    assert parse("", *shapes).inputs["x"].max == (3,)
    assert parse("", "tensorrt-rtx.compute_capabilities=['7.5']").tensorrt_rtx.compute_capabilities == (
        "7.5",
    )


def test_the_last_set_wins() -> None:
    assert parse("", "precision.budget=0.2", "precision.budget=0.3").precision.budget == 0.3


@pytest.mark.parametrize("override", ["precision.budget", "=1", ""])
def test_set_needs_key_and_value(override: str) -> None:
    assert "expected key=value" in error_of("", override)


@pytest.mark.parametrize("override", ["model.path.x=1", "pin.name=1", "pin.0.name=a"])
def test_set_goes_into_tables_only(override: str) -> None:
    assert "is not a table of the recipe" in error_of(FULL, override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("precison.budget=1", "unknown key 'precison'; nearest: precision"),
        ("precision.bugdet=1", "unknown key 'precision.bugdet'; nearest: budget"),
        ("precision=int8", "precision: "),
        ("precision.budget=much", "precision.budget: "),
        ("precision.budget=" + "9" * 5000, "precision.budget: "),
        ("..=1", "unknown key ''"),
    ],
)
def test_set_is_checked_like_the_file(override: str, expected: str) -> None:
    assert expected in error_of("", override)


def test_parsing_leaves_the_table_alone() -> None:
    table: dict[str, Any] = {"precision": {"budget": 0.1}}
    recipe.parse(table, "recipe.toml", ("precision.budget=0.2", "model.path=m"))
    assert table == {"precision": {"budget": 0.1}}


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(FULL, encoding="utf-8")
    assert recipe.load(path) == parse(FULL)
    assert recipe.load(path, ("pin=[]",), ("last:1",)).pin == (Pin(position="last", count=1),)


@pytest.mark.parametrize(
    "content",
    [b"[model", b"a = \n", b"\xff\xfe", b"a = 1\na = 2", b"a = " + b"9" * 5000, b"a = " + b"[" * 100_000],
    ids=["bracket", "no value", "no UTF-8", "twice", "huge number", "deep"],
)
def test_invalid_toml_is_the_users_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not valid TOML") as caught:
        recipe.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe"):
        recipe.load(tmp_path / "recipe.toml")


def test_a_folder_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory") as caught:
        recipe.load(tmp_path)
    assert isinstance(as_trtbuild_error(caught.value), InputError)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().precision.budget = 1.0  # type: ignore[misc]
