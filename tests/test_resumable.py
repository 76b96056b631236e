"""Work kept in pieces: killed anywhere, it ends with the same items, and makes again only what was not kept."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrg.errors import RunError
from dsrg.runtime import resumable
from dsrg.runtime.checksummed import DamagedError, read_checksummed, write_checksummed
from dsrg.runtime.launcher import WorkShard
from dsrg.runtime.resumable import resumable_rows
from helpers.data import harm


class Killed(Exception):
    pass


class Work:
    """Items of all kinds; remembers which it has made, and dies before one of them."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at, self.made = dies_at, []

    def __call__(self, rows):
        for number in rows.tolist():
            if number == self.dies_at:
                raise Killed
            self.made.append(number)
            rng = np.random.default_rng(number)
            maps = rng.random((number % 3, 2, 2)).astype(np.float32)
            yield {"name": f"bild ü/{number}", "maps": maps, "seeds": rng.integers(0, 256, (2, 3), dtype=np.uint8)}


def plain(items) -> list:
    return [{name: (np.asarray(v).dtype.str, np.asarray(v).tolist()) for name, v in item.items()} for item in items]


@settings(max_examples=25, deadline=None)
@given(total=st.integers(0, 13), shard=st.integers(1, 5), deaths=st.lists(st.integers(0, 12), max_size=3))
def test_the_same_items_however_often_it_was_killed(tmp_path_factory, total, shard, deaths):
    folder = tmp_path_factory.mktemp("shards")
    done = 0
    for death in deaths:
        try:
            list(resumable_rows(Work(dies_at=death), WorkShard(folder), total=total, shard=shard))
            done = total
        except Killed:
            done = death // shard * shard
    last = Work()
    assert plain(resumable_rows(last, WorkShard(folder), total=total, shard=shard)) == plain(Work()(np.arange(total)))
    assert last.made == list(range(done, total))


def test_the_same_items_from_any_number_of_processes(tmp_path):
    """Each makes its part and nothing else; the first one hands out all, whoever was first to be done."""
    expected = plain(Work()(np.arange(13)))
    for parts in (1, 2, 3, 5):
        works = [Work() for _ in range(parts)]
        options = {"total": 13, "shard": 2}
        for number in reversed(range(parts)):
            found = plain(resumable_rows(works[number], WorkShard(tmp_path / str(parts), number, parts), **options))
        assert found == expected
        assert sorted(row for work in works for row in work.made) == list(range(13))
        assert works[-1].made[:2] == [2 * parts - 2, 2 * parts - 1]


def test_goes_on_with_another_number_of_processes(tmp_path):
    for number, death in ((2, 11), (1, 3)):
        with pytest.raises(Killed):
            list(resumable_rows(Work(dies_at=death), WorkShard(tmp_path, number, 3), total=20, shard=2))
    next(resumable_rows(Work(), WorkShard(tmp_path, 0, 3), total=20, shard=2))
    there = {int(path.name[5:13]) for path in tmp_path.iterdir()}
    assert there == {0, 4}
    second, first = Work(), Work()
    list(resumable_rows(second, WorkShard(tmp_path, 1, 2), total=20, shard=2))
    assert plain(resumable_rows(first, WorkShard(tmp_path, 0, 2), total=20, shard=2)) == plain(Work()(np.arange(20)))
    assert not set(first.made) & set(second.made)
    assert {*first.made, *second.made} == set(range(20)) - {0, 1, 4, 5}


def test_the_first_waits_for_the_others(tmp_path, monkeypatch):
    """Each look finds one file more, as if the other had just written it."""
    other = resumable_rows(Work(), WorkShard(tmp_path, 1, 2), total=10, shard=1)
    monkeypatch.setattr(resumable.time, "sleep", lambda seconds: next(other))
    assert plain(resumable_rows(Work(), WorkShard(tmp_path, 0, 2), total=10, shard=1)) == plain(Work()(np.arange(10)))
    assert next(other, None) is None


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("DSRG_SHARD_TIMEOUT_SECONDS", "0.001")
    monkeypatch.setattr(resumable, "LOOK", 0.01)
    found = resumable_rows(Work(), WorkShard(tmp_path, 0, 2), total=4, shard=1)
    next(found)
    with pytest.raises(RunError, match="another process ended or fell silent: images 1 and following are its part"):
        next(found)


@pytest.mark.parametrize("how", ["bit", "cut", "empty", "gone"])
def test_what_a_damaged_file_held_is_made_again(tmp_path, how, capsys):
    with pytest.raises(Killed):
        list(resumable_rows(Work(dies_at=9), WorkShard(tmp_path), total=12, shard=3))
    path = sorted(tmp_path.iterdir())[1]
    path.unlink() if how == "gone" else harm(path, how)
    work = Work()
    assert plain(resumable_rows(work, WorkShard(tmp_path), total=12, shard=3)) == plain(Work()(np.arange(12)))
    assert work.made == [3, 4, 5, 9, 10, 11]
    assert (f"warning: {path}: " in capsys.readouterr().out) == (how != "gone")
    assert plain(resumable_rows(work, WorkShard(tmp_path), total=12, shard=3)) and len(work.made) == 6


def archive(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


FOREIGN = {
    "nothing": b"",
    "no archive": b"no archive",
    "objects": archive(**{"0/a": np.array([{}], object)}),
    "a number too high": archive(**{"5/a": np.zeros(2)}),
    "no number": archive(a=np.zeros(2)),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_whole_files_of_other_content_are_made_again(tmp_path, content, capsys):
    write_checksummed(tmp_path, "from-00000000", content, suffix=".npz")
    assert plain(resumable_rows(Work(), WorkShard(tmp_path), total=4, shard=3)) == plain(Work()(np.arange(4)))
    assert "no unfinished work (" in capsys.readouterr().out


def test_sealed_files(tmp_path):
    path = write_checksummed(tmp_path / "deep", "a", b"content", suffix=".bin")
    assert read_checksummed(path) == b"content" and path.name.startswith("a.ed7002b4") and path.suffix == ".bin"
    renamed = path.rename(path.with_name("a.0000.bin"))
    for wrong in (renamed, path):
        with pytest.raises(DamagedError, match=str(wrong)):
            read_checksummed(wrong)
