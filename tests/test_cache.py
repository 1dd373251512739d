"""Stages in the cache: made once, whole or not at all, and resumed only when asked."""

from __future__ import annotations

import pytest

from edgebert.cache import Cache, content_key, default_cache


def test_a_stage_is_made_once_and_read_from_the_finished_entry(tmp_path):
    cache, made = Cache(tmp_path), []

    def make(out, work):
        made.append(out)
        (out / "value").write_text("42")

    def load(entry):
        assert not entry.name.endswith(".tmp")
        return int((entry / "value").read_text())

    assert cache.stage("s", 1, {"a": 1}, make, load) == (42, False)
    assert cache.stage("s", 1, {"a": 1}, make, load) == (42, True)
    assert len(made) == 1
    assert cache.stage("s", 1, {"a": 2}, make, load) == (42, False)
    assert cache.stage("s", 2, {"a": 1}, make, load) == (42, False)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == sorted(
        content_key("s", v, {"a": a}) for v, a in ((1, 1), (1, 2), (2, 1)))


@pytest.mark.parametrize("resume", [True, False])
def test_a_stopped_stage_leaves_no_entry_and_its_work_only_for_resume(tmp_path, resume):
    def stop(out, work):
        (out / "half").write_text("x")
        (work / "state").write_text("7")
        raise KeyboardInterrupt

    def make(out, work):
        assert not (out / "half").exists()
        (out / "value").write_text((work / "state").read_text() if (work / "state").exists() else "new")

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).stage("s", 1, {}, stop, lambda entry: None)
    value, found = Cache(tmp_path, resume).stage("s", 1, {}, make, lambda entry: (entry / "value").read_text())
    assert (value, found) == ("7" if resume else "new", False)
    assert [p.name for p in (tmp_path / "s").iterdir()] == [content_key("s", 1, {})]


def test_a_failed_stage_leaves_nothing_behind(tmp_path):
    def full(out, work):
        (out / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Cache(tmp_path).stage("s", 1, {}, full, lambda entry: None)
    assert not list((tmp_path / "s").iterdir())


def test_keys_depend_on_every_input_and_not_on_order():
    assert content_key("s", 1, {"a": 1, "b": [2]}) == content_key("s", 1, {"b": [2], "a": 1})
    assert len({content_key("s", 1, {"a": 1}), content_key("t", 1, {"a": 1}), content_key("s", 1, {"a": 1.5})}) == 3
    with pytest.raises(ValueError):
        content_key("s", 1, {"a": float("nan")})


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEBERT_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("EDGEBERT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache() == tmp_path / "x" / "edgebert"
