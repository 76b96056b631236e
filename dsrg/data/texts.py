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
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        return f"Texts({self._array.tolist()})"

    def pick(self, rows: NDArray[np.int64]) -> "Texts":
        """The texts of the given rows, in their order."""
        return Texts(self._array[rows])

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
