"""`[validation]` as TOML: thresholds of every output, of one, of layers, and what a metric brings along."""

import pytest

from trtbuild import recipe
from trtbuild.errors import InputError
from trtbuild.recipe import OutputThresholds, Thresholds, ValidationSection

METRIC = 'metric = "m.py:f"\nlabels = "l.json"\nmax_drop = 0.02\n'


def parse(text, *overrides):
    return recipe.parse(recipe.tomllib.loads(text), "recipe.toml", overrides).validation


def error_of(text):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_arrives():
    section = parse(
        f"""[validation]
        {METRIC}
        baseline_drop = 0.01
        max_ece_rise = 0.05
        [validation.outputs]
        cosine = 0.99
        argmax_agreement = 0.995
        [validation.output.logits]
        sqnr_db = 20
        class_axis = 1
        [validation.output."model/boxes:0"]
        max_abs = 2.5
        [validation.layers]
        cosine = 0.9
        sqnr_db = 10
        max_abs = 8
        """
    )
    assert (section.max_drop, section.baseline_drop, section.max_ece_rise) == (0.02, 0.01, 0.05)
    assert section.outputs == OutputThresholds(cosine=0.99, argmax_agreement=0.995)
    assert list(section.output) == ["logits", "model/boxes:0"]
    assert section.layers == Thresholds(cosine=0.9, sqnr_db=10, max_abs=8)
    assert section.thresholds_of("logits") == OutputThresholds(
        cosine=0.99, sqnr_db=20, argmax_agreement=0.995
    )
    assert section.thresholds_of("model/boxes:0").max_abs == 2.5
    assert [section.class_axis_of(name) for name in ("logits", "model/boxes:0", "other")] == [1, -1, -1]


def test_what_one_output_has_goes_before_what_all_have():
    section = parse("[validation.outputs]\ncosine = 0.99\nmax_abs = 1\n[validation.output.y]\ncosine = 0.5")
    assert section.thresholds_of("y") == OutputThresholds(cosine=0.5, max_abs=1)
    assert section.thresholds_of("z") == section.outputs
    assert parse("[validation.output.y]\nmax_abs = 0").thresholds_of("y").model_fields_set == {"max_abs"}


def test_nothing_is_asked_by_default():
    section = ValidationSection()
    assert not section.thresholds_of("y").model_fields_set
    assert not section.layers.model_fields_set
    assert not parse("[validation.output.y]\nclass_axis = 0").thresholds_of("y").model_fields_set


def test_the_tolerance_against_a_baseline():
    assert parse(f"[validation]\n{METRIC}").baseline_tolerance == 0.02
    assert parse(f"[validation]\n{METRIC}baseline_drop = 0").baseline_tolerance == 0
    assert parse(f"[validation]\n{METRIC}baseline_drop = 0.5").baseline_tolerance == 0.5


def test_one_key_on_the_command_line():
    section = parse("[validation.output.y]\ncosine = 0.9", "validation.output.y.cosine=0.5")
    assert section.output["y"].cosine == 0.5


@pytest.mark.parametrize(
    "key", ["labels = 'l.json'", "max_drop = 0", "baseline_drop = 0", "max_ece_rise = 0"]
)
def test_keys_that_need_a_metric(key):
    message = "labels, max_drop, baseline_drop and max_ece_rise mean nothing without a metric"
    assert message in error_of(f"[validation]\n{key}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[validation.outputs]\nargmax_agreement = 1.01", "outputs.argmax_agreement: should be less than"),
        ("[validation.outputs]\nargmax_agreement = -0.1", "outputs.argmax_agreement: should be greater"),
        ("[validation.outputs]\nargmax_agrement = 1", "agrement'; nearest: argmax_agreement"),
        ("[validation.outputs]\nclass_axis = 1", "unknown key 'validation.outputs.class_axis'"),
        ("[validation.output.y]\ncosine = 1.1", "output.y.cosine: should be less than or equal to 1"),
        ("[validation.output.y]\nclass_axis = 1.5", "output.y.class_axis: should be a valid integer"),
        (
            "[validation.output.y]\nclas_axis = 1",
            "unknown key 'validation.output.y.clas_axis'; nearest: class_axis",
        ),
        ("[validation.output]\ncosine = 0.9", "output.cosine: should be a table"),
        ("[validation.layers]\nmax_abs = -1", "layers.max_abs: should be greater than or equal to 0"),
        ("[validation.layers]\nargmax_agreement = 1", "unknown key 'validation.layers.argmax_agreement'"),
        ("[validation.layers]\nsqnr_db = nan", "layers.sqnr_db: should be a finite number"),
        (
            f"[validation]\n{METRIC}baseline_drop = -0.1",
            "baseline_drop: should be greater than or equal to 0",
        ),
        (f"[validation]\n{METRIC}max_ece_rise = -0.1", "max_ece_rise: should be greater than or equal to 0"),
        (f"[validation]\n{METRIC}max_ece_rise = inf", "max_ece_rise: should be a finite number"),
    ],
)
def test_what_is_refused(text, words):
    assert words in error_of(text)
