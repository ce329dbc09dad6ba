"""A check of the self-test: what was compared, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Check:
    """``status`` is ok, differs or not run; ``detail`` says how much was compared, where it differs, or why it was not run."""

    name: str
    status: str
    detail: str

    @property
    def failed(self) -> bool:
        """True where the backend is wrong."""
        return self.status == "differs"


class Comparison:
    """Collects what a check compares; arrays are the same if their bits are, NaN being NaN."""

    def __init__(self, name: str) -> None:
        self.name, self.numbers, self.differences = name, 0, list[str]()

    def same(self, what: str, found: Any, expected: Any) -> None:
        """Equal to the bit."""
        a, b = np.asarray(found), np.asarray(expected)
        self.numbers += b.size
        if a.shape != b.shape or a.dtype != b.dtype:
            self.differences.append(f"{what}: {a.dtype}{a.shape} instead of {b.dtype}{b.shape}")
        elif not np.array_equal(a, b, equal_nan=b.dtype.kind == "f"):
            self._note(what, a, b, ~((a == b) | (_nan(a) & _nan(b))))

    def close(self, what: str, found: Any, expected: Any, rtol: float) -> None:
        """Equal to a relative difference."""
        a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        self.numbers += b.size
        wrong = ~np.isclose(a, b, rtol=rtol, atol=0.0, equal_nan=True)
        if wrong.any():
            self._note(what, a, b, wrong)

    def _note(self, what: str, a: NDArray[Any], b: NDArray[Any], wrong: NDArray[np.bool_]) -> None:
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        self.differences.append(
            f"{what}: {int(wrong.sum())} of {b.size}, first at {at}: {a[at]!r} instead of {b[at]!r}"
        )

    def result(self) -> Check:
        """The check."""
        if self.differences:
            more = f" (and {len(self.differences) - 1} more)" if len(self.differences) > 1 else ""
            return Check(self.name, "differs", self.differences[0] + more)
        return Check(self.name, "ok", f"{self.numbers} numbers")


def _nan(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(values != values)
