"""A FITS file of binary tables, written row by row: it appears under its name when it is whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError, OutputError
from calib_gpu.store import disk

BLOCK: Final = 2880

FORMATS: Final = {"f8": "D", "f4": "E", "i4": "J", "i2": "I"}
"""Codes of binary tables by NumPy type; strings are ``nA``."""


def form_of(kind: np.dtype[Any]) -> str:
    """TFORM of a field."""
    base, shape = kind.subdtype or (kind, ())
    if base.kind == "S":
        return f"{base.itemsize}A"
    return f"{shape[0] if shape else 1}{FORMATS[base.str[1:]]}"


class FitsWriter:
    """A new FITS file under a temporary name; :meth:`publish` gives it its own, leaving it without that removes it.

    Raises
    ------
    OutputError
        It exists and may not be replaced, or cannot be written.
    ConfigError
        astropy, which formats the headers, is not installed.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        try:
            from astropy.io import fits
        except ImportError:
            raise ConfigError("astropy writes FITS, and is not here", fix="pip install 'calib-gpu[fits]'") from None
        if path.is_dir() or (path.exists() and not overwrite):
            fix = "give another name" if path.is_dir() else "give another name, or --overwrite"
            raise OutputError("exists already", array=str(path), fix=fix)
        self._fits, self.path = fits, path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self._temporary.unlink(missing_ok=True)
            self._handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._cannot(error) from None

    def __enter__(self) -> FitsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._temporary.unlink(missing_ok=True)

    def primary(self, cards: Sequence[tuple[str, Any, str]]) -> None:
        """The primary header, without data."""
        start = [("SIMPLE", True, "FITS standard 4.0"), ("BITPIX", 8, ""), ("NAXIS", 0, ""), ("EXTEND", True, "")]
        self._append(self._header([*start, *cards]))

    def begin_table(
        self, dtype: np.dtype[Any], about: Mapping[str, tuple[str, str]], cards: Sequence[tuple[str, Any, str]]
    ) -> None:
        """Begin a binary table of these (big-endian) fields; ``about`` gives unit and meaning of each."""
        self._dtype, self._rows, self._start = dtype, 0, os.lseek(self._handle, 0, os.SEEK_CUR)
        assert dtype.names is not None
        columns: list[tuple[str, Any, str]] = []
        for k, name in enumerate(dtype.names, 1):
            unit, meaning = about[name]
            columns.append((f"TTYPE{k}", name, meaning))
            columns.append((f"TFORM{k}", form_of(dtype[name]), ""))
            if unit:
                columns.append((f"TUNIT{k}", unit, ""))
        self._cards = [
            ("XTENSION", "BINTABLE", ""), ("BITPIX", 8, ""), ("NAXIS", 2, ""), ("NAXIS1", dtype.itemsize, "bytes a row"),
            ("NAXIS2", 0, "rows"), ("PCOUNT", 0, ""), ("GCOUNT", 1, ""), ("TFIELDS", len(dtype.names), ""), *columns, *cards,
        ]  # fmt: skip
        self._append(self._header(self._cards))

    def rows(self, values: NDArray[Any]) -> None:
        """Append rows, a structured array of the table's fields."""
        self._append(values.astype(self._dtype, copy=False).tobytes())
        self._rows += values.size

    def end_table(self) -> int:
        """Fill the last block, and write the number of rows into the header; returns it."""
        filled = self._rows * self._dtype.itemsize
        self._append(bytes(-filled % BLOCK))
        cards = [(k, self._rows if k == "NAXIS2" else v, c) for k, v, c in self._cards]
        try:
            os.pwrite(self._handle, self._header(cards), self._start)  # of the same length: NAXIS2 has a fixed width
        except OSError as error:
            raise self._cannot(error) from None
        return self._rows

    def publish(self) -> None:
        """Make the file durable and give it its name."""
        try:
            os.fsync(self._handle)
            os.close(self._handle)
            self._handle = -1
            self._temporary.replace(self.path)
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            raise self._cannot(error) from None
        disk.sync_dir(self.path.parent)

    def _header(self, cards: Sequence[tuple[str, Any, str]]) -> bytes:
        header = self._fits.Header()
        for key, value, comment in cards:
            width = len(value) + 2 if isinstance(value, str) else 0
            room = 80 - 10 - max(20, width) - 3  # a card holds key, value and comment in 80 characters
            header.append(self._fits.Card(key, value, comment[: max(room, 0)]), end=True)
        text: str = header.tostring()
        return text.encode("ascii")

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: OSError) -> OutputError:
        fix = "check space and permissions, then export again"
        return OutputError(f"cannot write: {error.strerror}", array=str(self.path), fix=fix)
