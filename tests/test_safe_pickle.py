"""dsrg.artifacts.safe_pickle: reads what NumPy of Python 2 and 3 writes, and runs nothing."""

import base64
import copyreg
import gzip
import os
import pickle
import struct
import zlib
from collections import OrderedDict

import numpy as np
import pytest

from dsrg.artifacts import safe_pickle
from dsrg.artifacts.safe_pickle import read_pickle
from dsrg.errors import InputError
from helpers import REAL_CUES
from helpers.memory import peak_of_refusal
from helpers.pickles import RunsCode
from helpers.refusals import refusals

PROTOCOLS = range(6)

# written by cPickle of Python 2.7.18 with NumPy 1.16.6, protocols 0 to 2: cues of two images, the second without any
PYTHON2_CUES = {
    "0_labels": np.array([2, 3]),
    "0_cues": np.array([[0, 2, 2, 3], [0, 1, 1, 2], [0, 1, 2, 2]]),
    "1_labels": np.zeros(0, np.int64),
    "1_cues": np.zeros((3, 0), np.int64),
}
PYTHON2 = [
    (
        "eNq1Uk2LgzAUvM8fiZdKXtLtB/QPePGwXheKxiAFa0OMsP77vqrbbZeyLUgP75DMTGZ4k6h0hEzQvs4LW7cCTsE03dH1sTl5Gx+7Ohxy7/Mee2"
        "/NqWmD70yA04hGHppyxN0SUSIRMlEIhE/3wUcaryZmGXpn4VaIMnHYCDDEDKaumaY5xk4gTdNkQRiGlUUiJQP8YNFeYprOXkJuUHGA6o/jdnLU"
        "g7Ra404sf8QkH6qJfuXLG/nXt5RPRs3E9Qse/w3NxNWb/Wft51rf9YuSelygngpU9+3N2v7gHp8BD7/keg=="
    ),
    (
        "eNp1kL0OgjAUhWmLgFUTH6MTwc3BF9AmDCadEUoTSBBtaQcGn10rP1GbeIae3Nyvpyd9SEBYtMuavBBNJyFvzfXex/ymRHw1ja5zpfIeZ0rwW9"
        "tpZbjGEpERw205rqVPqKcZKPRZLggF72lCSt3fBZYBYbDeU48Ci4SEIgYOaZqenlbDYW8UxyTBzDoLdhk3opNRhUj1lb0cspGdq/ADJyOMHXg1"
        "wf4MX7xJ0HHk/Qo4Dv/s3RxbJkrmr1w7dTZDHTiX2bqP68LEL4NDVhM="
    ),
    (
        "eNp1kMsKwjAQRfPwUaOCn9FV0Z0Lv8BAF0LWtU0DFWo1abLoQnBTxa/WtKlIC97FDMMc7lzmjm4S+szbRHmciLyUiBfmfK0CflEiOJtcn2Kl4o"
        "pESvBLUWpluCYSO4oUqdvKEQU1g8nzIMc+hXbogFRXV0HkhKHTlgIKLTD1KWZwF4bh/m3VFgp08mK2sMkm4kaU0stw9jOdNaaYgkc27bC1w0gP"
        "mzts1GJH0AkNOgZ9wUFHf/ZDHxvDW3//tugFWTZBUN3EWA3P6sQEHw4LVM4="
    ),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cues.pickle"


def read(path, program: bytes) -> object:
    path.write_bytes(program)
    return read_pickle(path)


def refusal(path, program: bytes) -> str:
    (problem,) = refusals(read, path, program)
    assert str(path) in problem and len(problem) < 700
    return problem


def assert_same(got: object, wanted: object) -> None:
    assert type(got) is type(wanted)
    if isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(got, wanted)
        # some ways of writing keep the order of bytes, as in Python's own reader
        assert got.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("=")
        assert got.flags.f_contiguous == wanted.flags.f_contiguous
    elif isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key in wanted:
            assert_same(got[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        for one, other in zip(got, wanted, strict=True):
            assert_same(one, other)
    else:
        assert got == wanted


class TestReads:
    @pytest.mark.parametrize("packed", PYTHON2)
    def test_what_python_2_wrote(self, path, packed):
        assert_same(read(path, zlib.decompress(base64.b64decode(packed))), PYTHON2_CUES)

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_what_python_3_writes(self, path, protocol, pack):
        same = np.arange(5, dtype=">i4")
        content = {
            **PYTHON2_CUES,
            "by column": np.asfortranarray(np.arange(-6, 6).reshape(3, 4)),
            "same": same,
            "again": same,
            "half": np.float16([0.5]),
            "truth": np.array([[True], [False]]),
            "none": np.zeros((0, 3), "f4"),
            "others": [b"a\xff", "\\u00e4 \n\0", "é" * 70000, 2**70, 1.5, None, (), (1, 2)],
        }
        content |= {str(k): k for k in range(2500)}  # stored a thousand at once
        program = pickle.dumps(content, protocol=protocol)
        found = read(path, pack(program))
        assert_same(found, content)
        assert found["same"] is found["again"] and b"numpy._core." in program
        older = program.replace(b"\x16numpy._core", b"\x15numpy.core").replace(b"\x13numpy._core", b"\x12numpy.core")
        older = older.replace(b"numpy._core", b"numpy.core")
        assert_same(read(path, pack(older)), content)

    @pytest.mark.skipif(not REAL_CUES.exists(), reason="the file of SEC's authors is not there")
    def test_the_authors_cues(self):
        with gzip.open(REAL_CUES) as file:
            wanted = pickle.load(file, encoding="latin1")
        found = read_pickle(REAL_CUES)
        assert len(found) == 2 * 10582 and found.keys() == wanted.keys()
        assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


INT64 = b"cnumpy\ndtype\n(" + text("i8") + b"I0\nI1\ntR"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
RAW = b"C\x08" + bytes(8)


def array(shape: bytes, raw: bytes, kind: bytes = INT64) -> bytes:
    """Program of an array from the programs of its parts."""
    return EMPTY + b"(I1\n" + shape + kind + b"I00\n" + raw + b"tb."


def of(program: bytes) -> bytes:
    """A dict with what the program makes under one key."""
    return b"}S'a'\n" + program.removesuffix(b".") + b"s."


def test_the_parts_of_the_programs_below_are_right(path):
    assert read(path, of(array(b"(I1\nt", RAW)))["a"].tolist() == [0]


class TestRunsNothing:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"0_cues": [bad]}])
    def test_a_real_attack(self, path, tmp_path, protocol, wrap):
        program = pickle.dumps(wrap(RunsCode(tmp_path / "it ran")), protocol=protocol)
        message = refusal(path, program)
        assert "'mkdir'" in message
        assert "nothing that this one names was run" in message
        assert not (tmp_path / "it ran").exists()
        pickle.loads(program)
        assert (tmp_path / "it ran").exists()  # it was a real one

    @pytest.mark.parametrize(
        "name",
        [
            *("os system", "posix system", "builtins eval", "__builtin__ apply", "builtins getattr"),
            *("numpy load", "numpy fromfile", "numpy memmap", "numpy.core.multiarray fromfile", "numpy.core numeric"),
            *("numpy.core.multiarray _reconstruct.__globals__", "numpy ndarray.tofile", "numpy __dict__"),
            *("copyreg _reconstructor", "copy_reg _reconstructor", "copyreg add_extension", "pickle loads"),
            *("_codecs lookup", "codecs encode", "collections OrderedDict", "dsrg.files write_text"),
        ],
    )
    def test_other_names(self, path, name):
        module, name = name.split()
        for program in (f"c{module}\n{name}\n".encode(), text(module) + text(name) + b"\x93"):
            assert f"it asks for {module!r} {name!r}" in refusal(path, program + b"(I1\ntR.")

    @pytest.mark.parametrize("program", [b"(S'touch x'\nios\nsystem\n", b"Pelsewhere\n", b"I1\nQ", b"\xff"])
    def test_other_ways_of_naming(self, path, program):
        refusal(path, of(program))

    def test_registered_extensions(self, path, monkeypatch):
        monkeypatch.setitem(copyreg._inverted_registry, 240, ("os", "getpid"))
        monkeypatch.setitem(copyreg._extension_cache, 240, os.getpid)
        assert pickle.loads(b"\x82\xf0)R.") == os.getpid()  # Python's reader would call it unasked
        refusal(path, b"\x82\xf0)R.")


class TestArrays:
    @pytest.mark.parametrize(
        "values",
        [
            np.array(["a"]),
            np.array([b"a"]),
            np.array([1j]),
            np.array(["2020-01-01"], "M8[D]"),
            np.zeros(1, [("a", "i8")]),
            np.zeros(1, "V8"),
            np.zeros(1, np.longdouble),
            np.zeros(1).view(np.recarray),
            np.ma.array([1]),
            np.array([None, {}]),
            np.int64(3),
            OrderedDict(a=1),
        ],
        ids=lambda values: f"{type(values).__name__} {getattr(values, 'dtype', '')}",
    )
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_of_other_kinds(self, path, values, protocol):
        refusal(path, pickle.dumps({"a": values}, protocol=protocol))

    @pytest.mark.parametrize(
        "program",
        [
            array(b"(I2\nt", RAW),
            array(b"(L2305843009213693953L\nt", RAW),  # 2**61 + 1: in 64 bits, eight times that is 8
            array(b"(" + 32 * b"I100000000\n" + b"t", RAW),
            array(b"(S'aaaaaaaa'\nt", RAW),
            array(b"(I1\nt", b"C\x07" + bytes(7)),
            array(b"(I1\nt", b"N"),
            array(b"(I1\nt", text("ā" * 8)),
            array(b"(I1\nt", RAW, b"N"),
            array(b"(I1\nt", RAW, b"cnumpy\ndtype\n(" + text("i8,i8") + b"tR"),
            array(b"(I1\nt", RAW, INT64 + b"(I3\nS'x'\ntb"),
            EMPTY + b".",
        ],
    )
    def test_parts_that_do_not_fit(self, path, program):
        refusal(path, of(program))


BOMBS = {
    "memo far away, never filled": b"j\xff\xff\xff\xff.",
    "bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "bytearray": b"\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "text of Python 2": b"T\xff\xff\xff\x7fabc.",
    "frame": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "number of many digits": b"I" + 100_000 * b"9" + b"\n.",
    "no dict": b"].",
    "no mark": b"Nt.",
    "no end": b"N",
    "nothing": b"",
}


class TestBombs:
    @pytest.mark.parametrize("program", BOMBS.values(), ids=BOMBS)
    def test_refused_in_little_memory(self, path, program):
        path.write_bytes(program)
        assert peak_of_refusal(lambda: read_pickle(path)) < 40 * len(program) + 3_000_000

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_too_many_bytes(self, path, monkeypatch, pack):
        monkeypatch.setattr(safe_pickle, "MAX_BYTES", 5_000_000)
        assert "holds more than 5000000 bytes" in refusal(path, pack(bytes(50_000_000)))

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_cut_anywhere(self, path, protocol, pack):
        program = pack(pickle.dumps({"0_labels": np.array([1])}, protocol=protocol))
        for length in range(len(program)):
            refusal(path, program[:length])

    def test_damaged_gzip(self, path):
        program = bytearray(gzip.compress(pickle.dumps(PYTHON2_CUES)))
        for place in (3, 15, len(program) - 6):
            damaged = program.copy()
            damaged[place] ^= 0xFF
            assert "not readable" in refusal(path, bytes(damaged))

    def test_no_file(self, tmp_path):
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(InputError, match=f"{path}: not readable"):
                read_pickle(path)
