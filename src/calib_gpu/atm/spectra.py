"""Spectra of many profiles by am, in pieces over all cores; pieces that are there already are not computed again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib_gpu.atm import radiative
from calib_gpu.atm.refine import BENDS, PARTS, curved_cells, needed

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

PIECE: Final = 500
"""Frequencies of a piece."""

FINEST: Final = PARTS ** len(BENDS)
"""Into how many a step can be divided."""


class Piece(NamedTuple):
    """The frequencies n step / parts, n = first to last."""

    first: int
    last: int
    parts: int = 1

    @property
    def numbers(self) -> Numbers:
        """Its frequencies in units of step / FINEST."""
        return np.asarray(np.arange(self.first, self.last + 1) * (FINEST // self.parts), np.int64)

    def file(self, folder: Path) -> Path:
        """Where it is kept."""
        return folder / f"{self.first}-{self.last}{'' if self.parts == 1 else f'-{self.parts}'}.npy"


@dataclass(frozen=True)
class Computation:
    """What is to be computed; the spectra are ``[L, W, 1 + A, F]``: zenith opacity in Np, then sky in Rayleigh-Jeans K.

    Attributes
    ----------
    profiles
        Of each layer and each water vapour (:func:`calib_gpu.atm.radiative.scaled_profile`).
    steps, step_hz
        First and last frequency in steps, and the step.
    airmass
        ``[A]``.
    folder
        Where pieces are kept.
    workers
        Processes; 0: one a usable core.
    progress
        Called with the frequencies done and their total, which grows when it is known where lines are narrow.
    """

    profiles: list[list[Floats]]
    steps: tuple[int, int]
    step_hz: float
    airmass: tuple[float, ...]
    folder: Path
    workers: int = 0
    progress: Callable[[int, int], None] | None = None

    def coarse(self) -> tuple[Floats, Floats]:
        """Frequencies [Hz] and spectra at every step."""
        return self._named(*self._coarse())

    def refined(self) -> tuple[Floats, Floats]:
        """The same with the frequencies that narrow lines need (:mod:`calib_gpu.atm.refine`)."""
        numbers, spectra = self._coarse()
        done, width = numbers.size, FINEST
        cells = numbers[:-1][_any(curved_cells(_opacity(spectra), BENDS[0]), 1)]  # where they begin
        for next_bend in (*BENDS[1:], np.inf):
            if not cells.size:
                break
            width //= PARTS
            fine, found = self._fine(cells, width, done)
            done += fine.size
            inside = np.searchsorted(fine, cells)[:, None] + np.arange(PARTS + 1)
            tau = _opacity(found)[..., inside]
            added = inside[needed(tau)]
            numbers = np.concatenate([numbers, fine[added]])
            spectra = np.concatenate([spectra, found[..., added]], axis=-1)
            cells = np.sort(fine[inside[:, :-1][_any(curved_cells(tau, next_bend), 2)]])
        order = np.argsort(numbers)
        return self._named(numbers[order], spectra[..., order])

    def _named(self, numbers: Numbers, spectra: Floats) -> tuple[Floats, Floats]:
        return numbers.astype(np.float64) * (self.step_hz / FINEST), spectra

    def _coarse(self) -> tuple[Numbers, Floats]:
        first, last = self.steps
        return self._spectra([Piece(n, min(n + PIECE - 1, last)) for n in range(first, last + 1, PIECE)], 0)

    def _fine(self, cells: Numbers, width: int, before: int) -> tuple[Numbers, Floats]:
        """Frequencies ``width`` apart of cells that begin at some numbers, their ends too, each once."""
        apart = (np.diff(cells) > width * PARTS) | (np.arange(1, cells.size) % max(1, PIECE // PARTS) == 0)
        runs = np.split(cells // width, np.flatnonzero(apart) + 1)
        pieces = [Piece(int(run[0]), int(run[-1]) + PARTS, FINEST // width) for run in runs]
        numbers, spectra = self._spectra(pieces, before)
        numbers, where = np.unique(numbers, return_index=True)
        return numbers, spectra[..., where]

    def _spectra(self, pieces: list[Piece], before: int) -> tuple[Numbers, Floats]:
        """Pieces, one after the other; ``before`` frequencies were done already."""
        self._compute(pieces, before)
        values = [np.load(piece.file(self.folder)) for piece in pieces]
        return np.concatenate([piece.numbers for piece in pieces]), np.concatenate(values, axis=-1)

    def _compute(self, pieces: list[Piece], before: int) -> None:
        """Compute the pieces that are missing."""
        progress = self.progress or (lambda done, total: None)
        missing = [piece for piece in pieces if not piece.file(self.folder).is_file()]
        total = before + sum(piece.numbers.size for piece in pieces)
        done = total - sum(piece.numbers.size for piece in missing)
        progress(done, total)
        if not missing:
            return
        n = min(self.workers or len(os.sched_getaffinity(0)), len(missing))
        context = multiprocessing.get_context("spawn")
        with (
            tempfile.TemporaryDirectory(prefix="calib-gpu-am-") as scratch,
            ProcessPoolExecutor(n, context, _begin_worker, (scratch,)) as pool,
        ):
            try:
                running = {pool.submit(_compute_piece, self.profiles, piece, self.step_hz, self.airmass,
                                       piece.file(self.folder)): piece for piece in missing}  # fmt: skip
                for future in as_completed(running):
                    future.result()
                    done += running[future].numbers.size
                    progress(done, total)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)  # what runs is kept
                raise


def _opacity(spectra: Floats) -> Floats:
    """At zenith ``[L, W, F]``."""
    return spectra[:, :, 0]


def _any(cells: NDArray[np.bool_], kept: int) -> NDArray[np.bool_]:
    """Whether any layer or PWV has it: over all axes but the last ``kept``."""
    return np.asarray(cells.any(axis=tuple(range(cells.ndim - kept))))


def _begin_worker(scratch: str) -> None:
    """Am writes its warnings of unresolved lines to standard error, thousands of them; it gets a folder to itself."""
    # the parent ends the pieces; a worker that dies would leave it waiting
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, 2)
    os.close(handle)
    radiative.keep_coefficients(tempfile.mkdtemp(dir=scratch))


def _compute_piece(
    profiles: list[list[Floats]], piece: Piece, step_hz: float, airmass: tuple[float, ...], path: Path
) -> None:
    """Save ``[L, W, 1 + A, F]``."""
    values, step = [], step_hz / piece.parts
    for layer in profiles:
        spectra = [radiative.compute(rows, piece.first, piece.last, step, np.array(airmass)) for rows in layer]
        values.append([np.vstack([s.tau, s.sky]) for s in spectra])
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, np.array(values))
    temporary.replace(path)
