"""Work kept in pieces: killed anywhere, it ends with the same items, and makes again only what was not kept."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrg.artifacts.shards import SHARD, kept
from dsrg.sealed import DamagedError, read_sealed, write_sealed


class Killed(Exception):
    pass


class Work:
    """Items of all kinds; remembers which it has made, and dies before one of them."""

    def __init__(self, total: int, dies_at: int | None = None) -> None:
        self.total, self.dies_at, self.made = total, dies_at, []

    def __call__(self, start: int):
        for number in range(start, self.total):
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
            list(kept(Work(total, dies_at=death), folder, total=total, shard=shard))
            done = total
        except Killed:
            done = death // shard * shard
    last = Work(total)
    assert plain(kept(last, folder, total=total, shard=shard)) == plain(Work(total)(0))
    assert last.made == list(range(done, total))


@pytest.mark.parametrize("harm", ["bit", "cut", "empty", "gone"])
def test_from_a_damaged_file_on_items_are_made_again(tmp_path, harm, capsys):
    with pytest.raises(Killed):
        list(kept(Work(12, dies_at=9), tmp_path, total=12, shard=3))
    path = sorted(tmp_path.iterdir())[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"bit": content, "cut": content[:-9], "empty": b"", "gone": b""}[harm])
    if harm == "gone":
        path.unlink()
    work = Work(12)
    assert plain(kept(work, tmp_path, total=12, shard=3)) == plain(Work(12)(0))
    assert work.made == list(range(3, 12))
    assert (f"warning: {path}: " in capsys.readouterr().out) == (harm != "gone")


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
    write_sealed(tmp_path, "from-00000000", content, suffix=".npz")
    assert plain(kept(Work(4), tmp_path, total=4, shard=3)) == plain(Work(4)(0))
    assert "no unfinished work (" in capsys.readouterr().out


def test_nobodys_neighbours_change():
    """Networks see eight images at a time, see `image_batches`; another eight could change the last bits."""
    assert SHARD % 8 == 0


def test_sealed_files(tmp_path):
    path = write_sealed(tmp_path / "deep", "a", b"content", suffix=".bin")
    assert read_sealed(path) == b"content" and path.name.startswith("a.ed7002b4") and path.suffix == ".bin"
    renamed = path.rename(path.with_name("a.0000.bin"))
    for wrong in (renamed, path):
        with pytest.raises(DamagedError, match=str(wrong)):
            read_sealed(wrong)
