"""dsrg.artifacts.safe_pickle: reads what NumPy of Python 2 and 3 writes, runs nothing, believes nothing."""

import base64
import copyreg
import gzip
import os
import pickle
import struct
import tracemalloc
import zlib
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrg.artifacts import safe_pickle
from dsrg.artifacts.safe_pickle import INSTRUCTIONS, NAMES, read_pickle
from dsrg.errors import InputError

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
# the same for numbers, text with quotes, escapes and umlauts, nesting, other dtypes and orders, one array twice
PYTHON2_ZOO = {
    "f": np.asfortranarray(np.arange(-6, 6).reshape(3, 4)),
    "g": np.arange(5, dtype=">i4"),
    "h": np.float16([0.5]),
    "t": np.array([True]),
    "u": np.uint8([200, 10, 92, 39]),
    "l": [
        1,
        -2,
        3.5,
        None,
        True,
        ("ü", "a'b\\\n\xff\""),
        (),
        {},
        70000,
        300,
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        2**70,
        [],
    ],
}
ZOO = [
    (
        "eNqFU01rwzAMvetn9OJcWizbaVIYOw4CJYcVdgoM53OFNjWpAy3sp+8wuU1LlnZJ4CU8JEtPeo6XG4QNqxhkdbs350V2aIrFvt3ZrW4afYbPpsgO9dE2"
        "bWbBCPCueVDn17iR4EUc7IalDOy7UUSR4IPtMnN7NgUYH7wN2yoGlE0ZlLqkNEnNXxnEcRzNES6gYmnEOQWSE+cjwAEXAy4HnHrb9LhhJYOKBqkGyoNO"
        "uYRIga2uesOe3rDT+/JML170lppQjqAYjz/MMECZTtSfwMNOhvWzifN8Amqifj5RHyfq+2Pxzt+v5/6uOn/xZm4peuYiH3P3dhvDrsWOgbcziO6wXs/F"
        "GvSbXPigY+2ugvY+fuiETliaJEntZpsxMCjAGpQUttqjH0+BjgJOD32leztx0SXJvxMSRXzZ5+5+GgyoM2LI/RUuBQ8wUIiSSyUUqXHqQtAk9aj3heu9"
        "gkoB8fb5dgTv1nO/+y321iOwW8/3P+uZJacspFETNruuyP7TRwxtSP/0kRN9nA14cWHxC427VNA="
    ),
    (
        "eNp9UEtPwkAQ7rZFdMUHinr3wpooaUsVTIzxZmRrDyabeIBoi8WS8NqyPZDIP/Pmxd/kq263a4IEnWQ6nd3Z7zFTChABj+1B3B9NKu1hFFT6cY91vSjy"
        "JvAuCtrDwZhFcZtBqqJsDA4esmuqIawwAnx2Q3WEAcI5Jkce2GQUQJpDRO3aWMGAjywhrBFw7rpuI+EhPvy9f2UYkJSULABPlafGU2c+AZ1QReEMUV4Q"
        "aVhnoUCvS/RlgX62AN2E5P4tyeJLVlXSvSe/Q5PnH7KXraLL+inPgexzsqZKwzmlK0IpyHR2LKkT/qmTb0FV6ilSr0VX+UvnyHLg5UUho3BTJ+g2Vf7y"
        "TPJe2W/CZJ8WGF07mNL1xqgIlOvDlBGrjG6IijVGN+Uf3xgtOqZZN45PzRPLqJk12zSrRtW2bAe26FZA9LHXD+h2qBMQz5kpCTNy6bEpzewIM0+Lzeiv"
        "sFlO7bA5rN3Zxfg/WHv/YQHA/LjyDS/v3BY="
    ),
    (
        "eNp1j0tLw0AQxzObrbWxPqpV714aQQoWDz2I9CZ0MQdhwUOLJmlqCn1tujkULHjp8zN58+Jn8tGYTbaUoB2YnZ3dmf/85hWNGOgUnu2u3+kPi3bPc4od"
        "v81bpueZQ+3Rc+xed8A93+YaQ3GV1m3Ev0wlypiCNb1nWCdAUmNZ0ODDvqOxFEWtK6IQCAu2dKJSuDEMoxqEFh1E4dac5pXYIHQUuho65haFpovc9YS0"
        "mKASPHGFbFnKbkey139kZ/TpM4htKSOSc76CpKny/VvmMlWwjD/yHWSeklEgugnEjECEsQBsliSgtgFwTpFSFhLtOtsJ+xawvK1kY2Vj9iBg399o2ixY"
        "NS04Y9kJ2z0fsb1qPwfK3UU4hqAJ2xeBqFN2oMc3gjnLLTKrFSp1duhQPDA7DjtyMQU/wZsXXTji9S8l73HE+/IPL/7QagVBzBMiJ+ulrZXI6UYRAG75"
        "xV+StdXz"
    ),
]


class Runs:
    """A pickle of this would make a folder when it is loaded."""

    def __init__(self, folder) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cues.pickle"


def read(path, program: bytes) -> object:
    path.write_bytes(program)
    return read_pickle(path)


def refusal(path, program: bytes) -> str:
    with pytest.raises(InputError) as error:
        read(path, program)
    assert str(path) in str(error.value) and len(str(error.value)) < 700
    return str(error.value)


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
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_same(one, other)
    else:
        assert got == wanted


class TestReads:
    @pytest.mark.parametrize("packed", PYTHON2)
    def test_what_python_2_wrote(self, path, packed):
        assert_same(read(path, zlib.decompress(base64.b64decode(packed))), PYTHON2_CUES)

    @pytest.mark.parametrize("packed", ZOO)
    def test_all_that_python_2_can_write(self, path, packed):
        zoo = read(path, zlib.decompress(base64.b64decode(packed)))
        assert zoo.pop("same") is zoo["g"]
        assert_same(zoo, PYTHON2_ZOO)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_what_python_3_writes(self, path, protocol):
        same = np.arange(5, dtype=">i4")
        content = {
            **PYTHON2_CUES,
            **PYTHON2_ZOO,
            "same": [same, same],
            "scalar": np.int64(-3),
            "bytes": [b"", b"a\xff"],
            "text": ["\\u00e4 \n\0", "x" * 300, "é" * 70000],
            "numbers": [0, -1, 255, 65535, 2**31, -(2**31), 1.5, float("inf")],
            "bits": np.array([[True], [False]]),
            "empty": np.zeros((0, 3), np.float32),
            "three": np.arange(24, dtype=np.uint16).reshape(2, 3, 4),
        }
        program = pickle.dumps(content, protocol=protocol)
        assert_same(read(path, program), content)
        assert b"numpy._core.multiarray" in program
        older = program.replace(b"\x16numpy._core", b"\x15numpy.core").replace(b"\x13numpy._core", b"\x12numpy.core")
        older = older.replace(b"numpy._core", b"numpy.core")
        assert b"_core" not in older
        assert_same(read(path, older), content)

    def test_arrays_can_be_used_as_any_other(self, path):
        cues = read(path, pickle.dumps(PYTHON2_CUES, protocol=2))["0_cues"]
        assert cues.sum() == 16 and cues[:, 1].tolist() == [2, 1, 1]

    def test_long_lists_and_dicts(self, path):
        content = {str(k): k for k in range(2500)} | {"list": list(range(2500))}  # stored a thousand at once
        for protocol in PROTOCOLS:
            assert read(path, pickle.dumps(content, protocol=protocol)) == content

    def test_gzip(self, path):
        assert_same(read(path, gzip.compress(pickle.dumps(PYTHON2_CUES, protocol=2))), PYTHON2_CUES)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


INT64 = b"cnumpy\ndtype\n(" + text("i8") + b"I0\nI1\ntR"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"


def array(shape: bytes, raw: bytes, kind: bytes = INT64) -> bytes:
    """Program of an array from the programs of its parts."""
    return EMPTY + b"(I1\n" + shape + kind + b"I00\n" + raw + b"tb."


RAW = b"C\x08" + bytes(8)


def test_the_parts_of_the_programs_below_are_right(path):
    assert read(path, array(b"(I1\nt", RAW)).tolist() == [0]


class TestRunsNothing:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"0_cues": [bad]}, lambda bad: np.array([bad])])
    def test_a_real_attack(self, path, tmp_path, protocol, wrap):
        program = pickle.dumps(wrap(Runs(tmp_path / "it ran")), protocol=protocol)
        said = refusal(path, program)
        assert "'mkdir'" in said or "'O8'" in said
        assert "nothing that this one names was run" in said
        assert not (tmp_path / "it ran").exists()
        pickle.loads(program)
        assert (tmp_path / "it ran").exists()  # it was a real one

    @pytest.mark.parametrize(
        "name",
        [
            *("os system", "posix system", "subprocess Popen", "builtins eval", "__builtin__ eval", "builtins getattr"),
            *("builtins exec", "__builtin__ apply", "builtins __import__", "builtins bytearray", "builtins print"),
            *(
                "numpy load",
                "numpy fromfile",
                "numpy memmap",
                "numpy loadtxt",
                "numpy save",
                "numpy array",
                "numpy matrix",
            ),
            *("numpy.testing._private.utils runstring", "numpy.testing rundocs", "numpy.distutils.exec_command system"),
            *("numpy.core.multiarray fromfile", "numpy._core.multiarray set_string_function", "numpy.core numeric"),
            *("numpy.core.multiarray _reconstruct.__globals__", "numpy ndarray.tofile", "numpy.core._internal eval"),
            *("copyreg _reconstructor", "copy_reg _reconstructor", "copyreg __newobj__", "copyreg add_extension"),
            *(
                "_codecs lookup",
                "codecs encode",
                "pickle loads",
                "importlib import_module",
                "sys modules",
                "types CodeType",
            ),
            *("collections OrderedDict", "dsrg.artifacts.safe_pickle _kind", "dsrg.files write_text", "numpy __dict__"),
        ],
    )
    def test_other_names(self, path, name):
        module, name = name.split()
        calls = {
            "GLOBAL": f"c{module}\n{name}\n".encode() + b"(I1\ntR.",
            "STACK_GLOBAL": text(module) + text(name) + b"\x93(I1\ntR.",
        }
        for program in calls.values():
            assert f"it asks for {module!r} {name!r}" in refusal(path, program)

    @pytest.mark.parametrize(
        ("program", "instruction"),
        [
            (b"(S'touch x'\nios\nsystem\n.", "INST"),
            (b"(cnumpy\ndtype\nS'i8'\no.", "OBJ"),
            (b"cnumpy\nndarray\n(I9\nt\x81.", "NEWOBJ"),
            (b"cnumpy\nndarray\n(I9\nt}\x92.", "NEWOBJ_EX"),
            (b"Pelsewhere\n.", "PERSID"),
            (b"I1\nQ.", "BINPERSID"),
            (b"\x82\xf0.", "EXT1"),
            (b"\x83\xf0\x00.", "EXT2"),
            (b"\x84\xf0\x00\x00\x00.", "EXT4"),
            (b"\x97.", "NEXT_BUFFER"),
            (b"\x8b\x04\x00\x00\x00abcd.", "LONG4"),
            (b"\x8f.", "EMPTY_SET"),
            (b"\xff.", "b'\\xff'"),
        ],
    )
    def test_instructions_that_data_does_not_need(self, path, program, instruction):
        assert f"instruction {instruction};" in refusal(path, program)

    def test_registered_extensions(self, path, monkeypatch):
        monkeypatch.setitem(copyreg._inverted_registry, 240, ("os", "getpid"))
        monkeypatch.setitem(copyreg._extension_cache, 240, os.getpid)
        assert pickle.loads(b"\x82\xf0)R.") == os.getpid()  # Python's reader would call it unasked
        assert "EXT1" in refusal(path, b"\x82\xf0)R.")

    @pytest.mark.parametrize(
        "program",
        [
            b"N)R.",
            b"I1\n)R.",
            b"(lN)R.",
            b"cnumpy\nndarray\n(I9\ntR.",  # the class itself is no function
            b"cnumpy\ndtype\n(lR.",  # arguments that are no tuple
            b"cnumpy\ndtype\n)R.",
            b"cnumpy\ndtype\n(I1\nI1\nI1\nI1\ntR.",
        ],
    )
    def test_calls_of_anything_else(self, path, program):
        refusal(path, program)

    @pytest.mark.parametrize("state", [b"N", b"}", b"(t", b"(}N}t", b"(N}S'__kwdefaults__'\nNs" + b"t"])
    @pytest.mark.parametrize("thing", [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"]", b"}", b"N", INT64, EMPTY])
    def test_nothing_is_set_on_anything(self, path, thing, state):
        before = {name: dict(vars(f)) for name, f in NAMES.items() if callable(f)}
        assert "an object that is no array" in refusal(path, thing + state + b"b.")
        assert before == {name: dict(vars(f)) for name, f in NAMES.items() if callable(f)}

    def test_a_pickle_within_is_bytes(self, path, tmp_path):
        inner = pickle.dumps(Runs(tmp_path / "it ran"))
        assert read(path, pickle.dumps([inner])) == [inner]
        assert not (tmp_path / "it ran").exists()


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
            np.dtype([("a", "O")]),
            OrderedDict(a=1),
            {1},
        ],
        ids=lambda values: f"{type(values).__name__} {getattr(values, 'dtype', '')}",
    )
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_of_other_kinds(self, path, values, protocol):
        refusal(path, pickle.dumps(values, protocol=protocol))

    @pytest.mark.parametrize(
        "shape",
        [
            b"(I2\nt",
            b"(I1\nI1\nI2\nt",
            b"(I0\nt",
            b"(I-1\nt",
            b"(I-1\nI-1\nt",
            b"(L4611686018427387904L\nt",
            b"(L2305843009213693953L\nt",  # 2**61 + 1: in 64 bits, eight times that is 8
            b"(I0\nL4611686018427387904L\nt",
            b"(" + 9 * b"L4294967296L\n" + b"t",
            b"(" + 33 * b"I1\n" + b"t",
            b"(I01\nt",
            b"(F1.0\nt",
            b"(S'1'\nt",
            b"(S'aaaaaaaa'\nI1000000000\nt",
            b"(lI1\na",
            b"I1\n",
            b"N",
        ],
    )
    def test_shapes_that_do_not_fit(self, path, shape):
        assert " array " in refusal(path, array(shape, RAW))

    @pytest.mark.parametrize("raw", [b"C\x07" + bytes(7), b"C\x09" + bytes(9), b"N", b"(lN", b"I8\n", text("ā" * 8)])
    def test_bytes_that_do_not_fit(self, path, raw):
        refusal(path, array(b"(I1\nt", raw))

    def test_a_long_shape_makes_no_long_message(self, path):
        refusal(path, array(b"(" + 32 * b"I100000000\n" + b"t", RAW))

    @pytest.mark.parametrize(
        "kind",
        [
            b"N",
            text("i8"),
            b"cnumpy\ndtype\n",
            b"cnumpy\ndtype\n(" + text("O8") + b"I0\nI1\ntR",
            b"cnumpy\ndtype\n(" + text("i8,i8") + b"tR",
            b"cnumpy\ndtype\n(cnumpy\nndarray\ntR",
            b"cnumpy\ndtype\n(cnumpy\ndtype\ntR",
            b"cnumpy\ndtype\n(lN" + text("i8") + b"tR",
            INT64 + b"(I3\nS'x'\nt" + b"b",
            INT64 + b"(I3\nN" + b"tb",
            INT64 + b"(I9\nS'<'\n" + b"tb",
            INT64 + b"(I1\n(I1\nt" + INT64 + b"I00\n" + RAW + b"tb",
        ],
    )
    def test_types_that_are_none(self, path, kind):
        refusal(path, array(b"(I1\nt", RAW, kind))

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("multiarray\n_reconstruct", b"(cnumpy\ndtype\n(I0\ntU\x01bt"),
            ("multiarray\n_reconstruct", b"(N(I0\ntU\x01bt"),
            ("multiarray\nscalar", b"(" + INT64 + b"C\x07" + bytes(7) + b"t"),
            ("multiarray\nscalar", b"(" + INT64 + b"t"),
            ("numeric\n_frombuffer", b"(" + RAW + INT64 + b"(I2\ntS'C'\nt"),
            ("numeric\n_frombuffer", b"(" + RAW + INT64 + b"(I1\ntS'K'\n(I0\ntt"),
            ("numeric\n_frombuffer", b"(" + RAW + INT64 + b"(I1\nt" + EMPTY + b"t"),
        ],
    )
    def test_other_ways_to_an_array(self, path, name, arguments):
        refusal(path, f"cnumpy.core.{name}\n".encode() + arguments + b"R.")

    @pytest.mark.parametrize("arguments", [b"(Vx\nVrot13\nt", b"(Vx\nNt", b"(NVlatin1\nt", b"(V\\u0101\nVlatin1\nt"])
    def test_bytes_in_other_encodings(self, path, arguments):
        refusal(path, b"c_codecs\nencode\n" + arguments + b"R.")


NEST = b"](I1\ne" + 64 * b"q\x01]h\x01ah\x01a" + b"q\x01"
LONG = text(100_000 * "\0") + b"q\x01"
BOMBS = {
    "memo far away": b"Nr\xff\xff\xff\xff.",
    "memo far away, as text": b"Np99999999999\n.",
    "memo before the first": b"Np-1\n.",
    "memo never filled": b"h\x05.",
    "bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "more bytes than can be counted": b"\x8e" + 8 * b"\xff" + b"abc.",
    "bytearray": b"\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "text": b"X\xff\xff\xff\x7fabc.",
    "text of Python 2": b"T\xff\xff\xff\xffabc.",
    "frame": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "number of many digits": b"I" + 100_000 * b"9" + b"\n.",
    "number within a number": b"L1e9L\n.",
    "tuples in tuples as a key": b"})" + 200_000 * b"\x85" + b"Ns.",
    "lists of lists of lists, as a name": NEST + text("x") + b"\x93.",
    "lists of lists of lists, as a type": NEST + b"cnumpy\ndtype\n(h\x01tR.",
    "a list in itself, as a state": INT64 + b"]q\x01h\x01ah\x01b.",
    "one text for many arrays": b"](" + LONG + 300 * array(b"(I12500\nt", b"h\x01")[:-1] + b"e.",
    "one text for many bytes": b"](" + LONG + 300 * b"c_codecs\nencode\n(h\x01Vlatin1\ntR" + b"e.",
    "keys that are no text": b"}I1\nI2\ns.",
    "a key without a value": b"}(S'a'\nu.",
    "items of no list": b"NNa.",
    "items of no list, at once": b"N(NNe.",
    "items of no dict": b"]S'a'\nNs.",
    "no mark": b"Nt.",
    "no operand": b"a.",
    "no result": b".",
    "nothing to remember": b"q\x00.",
    "nothing to build": b"Nb.",
    "text that is not quoted": b"Sabc\n.",
    "text quoted on one side": b"S'abc\n.",
    "text with escapes of Python 3": b"S'\\N{BULLET}'\n.",
    "text with unknown escapes": b"S'\\q'\n.",
    "text that is no UTF-8": b"X\x01\x00\x00\x00\xff.",
    "a number that is none": b"Iabc\n.",
    "a name without an end": b"cnumpy\nndarray",
    "no end": b"N",
    "nothing": b"",
}


class TestBombs:
    @pytest.mark.parametrize("program", BOMBS.values(), ids=BOMBS)
    def test_refused_in_little_memory(self, path, program):
        path.write_bytes(program)
        tracemalloc.start()
        try:
            with pytest.raises(InputError):
                read_pickle(path)
            assert tracemalloc.get_traced_memory()[1] < 40 * len(program) + 3_000_000
        finally:
            tracemalloc.stop()

    def test_the_limits_are_above_real_cues(self):
        assert safe_pickle.MOST_BYTES > 5 * 100e6 and safe_pickle.MOST_INSTRUCTIONS > 5 * 50 * 2 * 10582

    def test_too_many_instructions(self, path, monkeypatch):
        monkeypatch.setattr(safe_pickle, "MOST_INSTRUCTIONS", 100)
        assert read(path, 99 * b"]" + b"N.") is None
        assert "more than 100 instructions" in refusal(path, 100 * b"]" + b"N.")

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_too_many_bytes(self, path, monkeypatch, pack):
        monkeypatch.setattr(safe_pickle, "MOST_BYTES", 5_000_000)
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


# Anything at all: an answer or an InputError, in bounded memory


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "cues.pickle"


def survives(path, program: bytes) -> None:
    path.write_bytes(program)
    tracemalloc.start()
    try:
        read_pickle(path)
    except InputError as error:
        assert error.problems
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3_000_000 + 200 * len(program)


SEEDS = [pickle.dumps(PYTHON2_CUES, protocol=protocol) for protocol in PROTOCOLS]
SEEDS += [zlib.decompress(base64.b64decode(packed)) for packed in PYTHON2]
PARTS = [INT64, EMPTY, RAW, text("i8"), b"(I1\nt", array(b"(I1\nt", RAW)[:-1]]
PARTS += [f"c{module}\n{name}\n".encode() for module, name in NAMES] + list(INSTRUCTIONS)


@given(program=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes(fuzzed, program):
    survives(fuzzed, program)


@given(
    program=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_any_damage(fuzzed, program, edits):
    for place, removed, added in edits:
        program = program[:place] + added + program[place + removed :]
    survives(fuzzed, program)


@given(parts=st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=9)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_program(fuzzed, parts):
    survives(fuzzed, b"".join(parts) + b".")
