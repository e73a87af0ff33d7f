"""The store of golden activations: run once, read after that, and never more of the disk than allowed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.golden import tensor_file
from trtbuild.golden.activations import Activations, RecalledSide
from trtbuild.golden.check import check
from trtbuild.golden.layers import diff_layers
from trtbuild.recipe import ValidationSection
from trtbuild.targets.sides import as_given

RNG = np.random.default_rng(1)
W = RNG.standard_normal((4, 4)).astype(np.float32)
SAMPLES = 5
GOLDEN = {"model": "m", "target": "onnxruntime"}
MUCH = 10**9


@pytest.fixture
def case(open_toy, shard_set, case_of):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w) y = Relu(h) }", {"w": W})
    return case_of(model, shard_set(model, {"x": RNG.standard_normal((SAMPLES, 4)).astype(np.float32)}))


class Counted:
    """The golden of a case, which counts what it runs."""

    def __init__(self, model):
        self.runs = self.opened = 0
        self.side = as_given(model)
        honest = self.side.showing

        @contextmanager
        def showing(tensors):
            self.opened += 1
            with honest(tensors) as active:
                infer = active.infer

                def counting(feeds, check_inputs=False):
                    self.runs += 1
                    return infer(feeds, check_inputs=check_inputs)

                active.infer = counting
                yield active

        object.__setattr__(self.side, "showing", showing)


def checked(case, folder, limit=MUCH, golden=GOLDEN, samples=SAMPLES, memory=2.0, attributed=0):
    counted = Counted(case.model)
    store = Activations(folder, golden, limit)
    section = ValidationSection(layer_samples=samples, layer_memory_gb=memory, attribution_samples=attributed)
    side = RecalledSide(counted.side, store)
    verdict = check(case.model, side, case.side(), case.precisions, case.shards, None, section)
    store.say_what_is_kept()
    return verdict, counted


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))


def test_a_second_check_runs_no_golden_and_says_the_same(case, tmp_path, capsys):
    first, ran = checked(case, tmp_path)
    assert (ran.runs, ran.opened, len(files(tmp_path))) == (SAMPLES, 1, SAMPLES)
    assert "golden activations: 5 samples kept in" in capsys.readouterr().err
    second, recalled = checked(case, tmp_path)
    assert (recalled.runs, recalled.opened) == (0, 0)
    assert second.to_dict() == first.to_dict()
    assert "golden activations: 5 samples read from" in (said := capsys.readouterr().err)
    assert "kept" not in said


def test_the_same_as_without_a_store(case, tmp_path):
    section = ValidationSection(layer_samples=SAMPLES, attribution_samples=0)
    plain = check(case.model, case.golden, case.side(), case.precisions, case.shards, None, section)
    assert checked(case, tmp_path)[0].to_dict() == checked(case, tmp_path)[0].to_dict() == plain.to_dict()


def test_only_samples_that_are_new_are_run(case, tmp_path):
    checked(case, tmp_path, samples=2)
    assert checked(case, tmp_path, samples=4)[1].runs == 2
    assert len(files(tmp_path)) == 4


def test_another_golden_has_a_folder_of_its_own(case, tmp_path):
    checked(case, tmp_path)
    assert checked(case, tmp_path, golden={**GOLDEN, "model": "n"})[1].runs == SAMPLES
    assert len({name.partition("/")[0] for name in files(tmp_path)}) == 2


def test_groups_of_tensors_are_put_together(case, tmp_path):
    verdict, ran = checked(case, tmp_path, memory=1e-9)
    assert ran.runs == len(files(tmp_path)) == 2 * SAMPLES
    again, recalled = checked(case, tmp_path)
    assert recalled.runs == 0
    assert again.layers == verdict.layers


def test_what_is_read_again_for_the_attribution_is_not_run_again(case, tmp_path, capsys):
    verdict, ran = checked(case, tmp_path, memory=1e-9, attributed=2)
    assert ran.runs == 2 * SAMPLES
    assert "golden activations: 5 samples kept in" in capsys.readouterr().err
    assert all(diff.own is not None for diff in verdict.layers)


def test_the_limit_holds_and_the_rest_is_run_again(case, tmp_path, capsys):
    size = tensor_file.size_of(dict.fromkeys("hy", np.zeros((1, 4), np.float32)), "hy")
    checked(case, tmp_path, limit=2 * size)
    kept = len(files(tmp_path))
    assert 0 < kept < SAMPLES
    assert used(tmp_path) <= 2 * size
    assert f"{SAMPLES - kept} samples not kept, to be run again" in capsys.readouterr().err
    assert checked(case, tmp_path, limit=2 * size)[1].runs == SAMPLES - kept


def used(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_what_nobody_asked_for_makes_room(case, tmp_path):
    checked(case, tmp_path, golden={"model": "old"})
    old, limit = set(files(tmp_path)), used(tmp_path) + 500
    checked(case, tmp_path, limit=limit)
    kept = set(files(tmp_path))
    assert len(kept - old) == SAMPLES
    assert len(kept & old) <= 1
    assert used(tmp_path) <= limit


def test_what_was_asked_for_last_stays(case, tmp_path):
    checked(case, tmp_path, golden={"model": "first"})
    checked(case, tmp_path, golden={"model": "second"})
    for path in tmp_path.rglob("*.safetensors"):
        os.utime(path, (1, 1))
    checked(case, tmp_path, golden={"model": "first"})  # read again
    asked = {path for path in tmp_path.rglob("*.safetensors") if path.stat().st_mtime > 1}
    assert len(asked) == SAMPLES
    checked(case, tmp_path, golden={"model": "third"}, limit=used(tmp_path) + 500, samples=3)
    assert all(path.is_file() for path in asked)


def test_files_of_others_are_left_alone(case, tmp_path):
    foreign = tmp_path / "precious" / "weights.safetensors"
    foreign.parent.mkdir()
    foreign.write_bytes(b"x" * 5000)
    beside = tmp_path / ("0" * 16) / "notes.safetensors"
    beside.parent.mkdir()
    beside.write_bytes(b"x" * 5000)
    checked(case, tmp_path, limit=900)
    assert foreign.is_file()
    assert beside.is_file()
    assert len(files(tmp_path)) > 2


def test_what_a_killed_check_left_behind_is_removed_in_time(case, tmp_path):
    checked(case, tmp_path, samples=1)
    (name,) = files(tmp_path)
    left = [(tmp_path / name).with_name(f".{name.partition('/')[2]}.{i}{i}.tmp") for i in range(2)]
    for path in left:
        path.write_bytes(b"x")
    os.utime(left[0], (1, 1))
    checked(case, tmp_path)
    assert [path.is_file() for path in left] == [False, True]


def test_what_the_golden_does_not_show_is_not_asked_for_again(case, tmp_path):
    """As in an engine whose fused tensors exist only inside a layer."""
    runs = []

    class Fused:
        shows = "unfused layers"

        @contextmanager
        def showing(self, tensors):
            with as_given(case.model).showing(["h"]) as active:
                yield SimpleNamespace(
                    name="golden",
                    infer=lambda feeds, check_inputs=False: runs.append(1) or active.infer(feeds),
                )

        def __getattr__(self, name):
            return getattr(as_given(case.model), name)

    for _ in range(2):
        side = RecalledSide(Fused(), Activations(tmp_path, GOLDEN, MUCH))
        differs, fused = diff_layers(side, case.side(), [("h", "y")], case.shards, SAMPLES)
        assert list(fused) == ["y"]
        assert differs[0].complete
    assert len(runs) == SAMPLES


def test_the_true_reason_is_given(case, tmp_path, capsys):
    (tmp_path / "store").write_text("a file")
    _, ran = checked(case, tmp_path / "store")
    assert ran.runs == SAMPLES
    said = capsys.readouterr().err
    assert "note: golden activations are not kept" in said
    assert "5 samples not kept, to be run again\n" in said
    assert "golden_disk_gb" not in said


def test_a_limit_of_nothing_keeps_nothing(case, tmp_path):
    assert checked(case, tmp_path / "none", limit=0)[1].runs == SAMPLES
    assert not (tmp_path / "none").exists()


def test_a_damaged_file_is_named(case, tmp_path):
    checked(case, tmp_path)
    path = tmp_path / files(tmp_path)[2]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{path.name} is damaged .*delete it"):
        checked(case, tmp_path)
    path.unlink()
    assert checked(case, tmp_path)[1].runs == 1


def test_a_full_disk_does_not_stop_the_check(case, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    verdict, ran = checked(case, tmp_path / "kept")
    assert ran.runs == SAMPLES
    assert len(verdict.layers) == 2
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert capsys.readouterr().err.count("note: golden activations are not kept") == 1
