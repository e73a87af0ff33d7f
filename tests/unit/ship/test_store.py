"""Builds on disk: complete or not there."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from trtbuild.errors import InputError
from trtbuild.ship import store

KEY = "0123456789abcdef"


def manifest(artifact, **changes):
    return {
        "schema_version": store.SCHEMA_VERSION,
        **{"key": KEY, "engine": "toy", "created": "now", "source": "somewhere"},
        "model": {"sha256": "0", "not_calibrated": {}},
        "target": {"target": "onnxruntime"},
        "profiles": {},
        "precision": {"pinned": [], "lowerable": 0, "share": 0.0},
        "audit": {"histogram": {}, "held": 0, "lost": [], "unlowered": []},
        "layers": [],
        "artifact": store.describe(artifact),
        **changes,
    }


def write(content=b"model", **changes):
    def into(folder):
        artifact = folder / "model.onnx"
        artifact.write_bytes(content)
        return manifest(artifact, **changes)

    return into


def publish(builds, key=KEY, content=b"model"):
    return store.publish(builds, key, write(content, key=key))


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_publish_and_read(tmp_path):
    built = publish(tmp_path / "deep" / "builds")
    assert built.artifact == tmp_path / "deep" / "builds" / KEY / "model.onnx"
    assert built.key == KEY
    assert built.stored
    built.verify()
    assert everything(tmp_path / "deep") == [
        "builds",
        f"builds/{KEY}",
        f"builds/{KEY}/manifest.json",
        f"builds/{KEY}/model.onnx",
    ]
    assert store.read(built.artifact.parent) == built


def test_others_may_read_a_build(tmp_path):
    folder = publish(tmp_path).artifact.parent
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_nothing(tmp_path, error, there):
    def half(folder):
        write()(folder)
        raise error

    builds = tmp_path / "builds"
    if there:
        publish(builds, "ffff")
    before = everything(tmp_path)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        store.publish(builds, KEY, half)
    assert everything(tmp_path) == before


def test_a_full_disk_at_the_manifest_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        publish(tmp_path / "builds")
    assert caught.value.filename == str(tmp_path / "builds")
    assert everything(tmp_path) == []


def test_a_failing_rename_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        publish(tmp_path / "builds")
    assert everything(tmp_path) == []


def test_what_a_killed_build_left_is_swept_a_day_later(tmp_path):
    fresh, old = (tmp_path / "builds" / f".unfinished-{name}" for name in ("fresh", "old"))
    for folder in (fresh, old):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text("half")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    publish(tmp_path / "builds")
    assert fresh.exists()
    assert not old.exists()


def test_an_existing_key_is_kept(tmp_path):
    first = publish(tmp_path)
    second = publish(tmp_path, content=b"another process made the same, later")
    assert second == first
    assert first.artifact.read_bytes() == b"model"
    assert everything(tmp_path) == [KEY, f"{KEY}/manifest.json", f"{KEY}/model.onnx"]


def test_a_folder_in_the_way_that_is_no_build_is_an_error(tmp_path):
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path)
    assert everything(tmp_path) == [KEY, f"{KEY}/notes.txt"]


def test_the_newest_is_the_last_published_or_marked(tmp_path):
    builds = [publish(tmp_path, key) for key in ("aaaa", "bbbb", "cccc")]
    for number, built in enumerate(builds):
        os.utime(built.artifact.parent / "manifest.json", (number, number))
    assert store.newest(tmp_path).key == "cccc"
    store.mark_newest(builds[0])
    assert store.newest(tmp_path).key == "aaaa"
    assert [folder.name for folder in store.finished(tmp_path)] == ["bbbb", "cccc", "aaaa"]


def test_what_is_unfinished_is_no_build(tmp_path):
    publish(tmp_path)
    for name in (".unfinished-x", "ranges", "garbage"):
        (tmp_path / name).mkdir()
    (tmp_path / ".unfinished-x" / "manifest.json").write_text("{}")
    assert [folder.name for folder in store.finished(tmp_path)] == [KEY]


def test_no_build_yet(tmp_path):
    for builds in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match="no build yet"):
            store.newest(builds)
        assert store.find(KEY, builds) is None


def test_find_by_the_beginning(tmp_path):
    for key in ("abcd1", "abcd2", "abff"):
        publish(tmp_path / "one", key)
    publish(tmp_path / "two", "cdef")
    stores = tmp_path / "one", tmp_path / "two"
    assert store.find("abf", *stores).key == "abff"
    assert store.find("abcd1", *stores).key == "abcd1"
    assert store.find("c", *stores).key == "cdef"
    for nothing in ("", "x", "abcd12", "bcd"):
        assert store.find(nothing, *stores) is None
    with pytest.raises(InputError, match=r"'ab' begins 3 builds: .*one/ab.*, .*one/ab.*, .*one/ab"):
        store.find("ab", *stores)
    publish(tmp_path / "two", "abff")
    with pytest.raises(InputError, match=r"begins 2 builds: .*one/abff, .*two/abff"):
        store.find("abff", *stores)


@pytest.mark.parametrize("damage", ["flip", "longer", "gone", "other name"])
def test_verify(tmp_path, damage):
    built = publish(tmp_path)
    if damage == "flip":
        built.artifact.write_bytes(b"modem")
    elif damage == "longer":
        built.artifact.write_bytes(b"model ")
    elif damage == "gone":
        built.artifact.unlink()
    else:
        built = store.Build(built.artifact.rename(built.artifact.with_name("other.onnx")), built.manifest)
    with pytest.raises(InputError) as caught:
        built.verify()
    assert str(built.artifact) in str(caught.value)
    assert f"delete {built.artifact.parent} and build again" in str(caught.value)


def test_external_data_is_part_of_an_artifact(tmp_path):
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(b"graph")
    alone = store.describe(artifact)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(b"weights")
    both = store.describe(artifact)
    assert (alone["bytes"], both["bytes"]) == (5, 12)
    data.write_bytes(b"Weights")
    assert store.describe(artifact)["sha256"] != both["sha256"] != alone["sha256"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ('{"schema_version": 1', "not valid JSON"),
        ("[]", "schema_version 1"),
        ('{"schema_version": 99}', "schema_version 1"),
        ('{"schema_version": 1}', "key, engine, created"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, text, words):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        store.read(tmp_path)
    assert f"delete {tmp_path} and build again" in str(caught.value)


@pytest.mark.parametrize("field", store.FIELDS)
@pytest.mark.parametrize("wrong", ["missing", "of another type"])
def test_every_field_of_a_manifest_is_needed(tmp_path, field, wrong):
    built = publish(tmp_path)
    path = built.artifact.with_name("manifest.json")
    document = json.loads(path.read_text())
    name, _, inner = field.partition(".")
    table, key = (document[name], inner) if inner else (document, name)
    if wrong == "missing":
        del table[key]
    else:
        table[key] = None
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=f"{field} missing or damaged"):
        store.read(path.parent)


@pytest.mark.parametrize("layer", [7, {}, {"name": "a", "type": "Conv", "nodes": []}])
def test_a_layer_of_a_manifest_is_whole(tmp_path, layer):
    path = publish(tmp_path).artifact.with_name("manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers": [layer]}))
    with pytest.raises(InputError, match="layers missing or damaged"):
        store.read(path.parent)


def test_what_newer_manifests_say_besides_is_not_needed(tmp_path):
    layer = {"name": "a", "type": "Conv", "nodes": ["a"], "precision": "int8", "reads_int8": False}
    built = store.publish(tmp_path, KEY, write(layers=[layer], calibration=None))
    assert built.manifest["layers"] == [layer]


def test_no_manifest(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json: no such manifest; is this a build\?"):
        store.read(tmp_path)


def test_an_output_and_its_manifest(tmp_path):
    output = tmp_path / "x.onnx"
    output.write_bytes(b"model")
    store.write_json(tmp_path / "x.onnx.json", manifest(output))
    built = store.read_output(output)
    assert not built.stored
    built.verify()
    output.write_bytes(b"other")
    with pytest.raises(InputError, match=r"delete .*/x\.onnx and build again"):
        built.verify()
    assert f"delete {tmp_path / 'x.onnx.json'}" in str(built.damaged("broken"))


def test_writing_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    store.write_text(path, "old")
    store.write_text(path, "new")
    assert path.read_text() == "new"

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        store.write_text(path, "newer")
    assert path.read_text() == "new"
    assert everything(tmp_path) == ["text.txt"]


def test_two_writers_of_one_file(tmp_path, monkeypatch):
    """One writes while the other is in the middle: both succeed, and the file is one of the two."""
    path, fsync = tmp_path / "text.txt", os.fsync

    def interleave(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        store.write_text(path, "inner")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interleave)
    store.write_text(path, "outer")
    assert path.read_text() == "outer"
    assert everything(tmp_path) == ["text.txt"]


def test_a_key_depends_on_everything_and_on_no_order():
    parts = {"a": 1, "b": {"c": [1, 2]}}
    key = store.key_of(parts)
    assert len(key) == 16
    assert key == store.key_of({"b": {"c": [1, 2]}, "a": 1})
    others = [{**parts, "a": 2}, {**parts, "b": {"c": [2, 1]}}, {"a": 1}, {**parts, "d": None}]
    assert len({key, *map(store.key_of, others)}) == 5
