"""Many short texts in one array instead of an object each."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 14  # texts that are objects for a while


class Texts(Sequence[str]):
    """A sequence of texts that cannot be changed, equal to any other sequence of the same texts.

    A text costs 16 bytes, and its own if it has more than 15.
    """

    def __init__(self, texts: Iterable[str] | NDArray) -> None:
        self._array = texts if isinstance(texts, np.ndarray) else np.array(list(texts), np.dtypes.StringDType())

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, place: int | slice) -> "str | Texts":
        return Texts(self._array[place]) if isinstance(place, slice) else self._array[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._array)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return np.array_equal(self._array, other._array)
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        return f"Texts({self._array.tolist()})"

    def pick(self, rows: NDArray[np.int64]) -> "Texts":
        """The texts of the given rows, in their order."""
        return Texts(self._array[rows])

    def places(self, wanted: "Texts") -> NDArray[np.int64]:
        """Where each of the `wanted` texts stands among these, int64 (len(wanted),); -1 where it does not.

        Of equal texts the first counts. Takes 40 bytes a text meanwhile, a dictionary three times as much.
        """
        if self == wanted:
            return np.arange(len(self))
        if not len(self):
            return np.full(len(wanted), -1)
        if len(wanted) == 1:  # 20 times faster than all hashes
            return np.array([self._place(wanted[0])])
        mine, theirs = (np.fromiter(map(hash, texts), np.int64, len(texts)) for texts in (self, wanted))
        order = np.argsort(mine, kind="stable")
        near = np.searchsorted(mine, theirs, sorter=order).clip(max=len(self) - 1)
        found = np.where(mine[order[near]] == theirs, order[near], -1)
        for place in np.flatnonzero((found >= 0) & (self._array[found] != wanted._array)):  # another with its hash
            found[place] = self._place(wanted[place])
        return found

    def _place(self, text: str) -> int:
        same = np.flatnonzero(self._array == text)
        return int(same[0]) if len(same) else -1

    def repeated(self) -> list[int]:
        """The places of texts that were there before, in order."""
        order = np.argsort(self._array, kind="stable")
        return sorted(order[1:][self._array[order[1:]] == self._array[order[:-1]]].tolist())


class GrowingTexts:
    """Texts that come one by one."""

    def __init__(self) -> None:
        self._chunks: list[NDArray] = []
        self._last: list[str] = []

    def append(self, text: str) -> None:
        self._last.append(text)
        if len(self._last) == CHUNK:
            self._chunks.append(np.array(self._last, np.dtypes.StringDType()))
            self._last = []

    def done(self) -> Texts:
        last = np.array(self._last, np.dtypes.StringDType())
        return Texts(np.concatenate([*self._chunks, last]) if self._chunks else last)
