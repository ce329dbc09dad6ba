"""Where a table gets more frequencies: in lines narrower than its step, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calib_gpu.atm.refine import BENDS, PARTS, TOLERANCE, curved_cells, needed
from calib_gpu.atm.spectra import FINEST, Computation, Piece

N = 200


def sky(numbers: np.ndarray, *lines: tuple[float, float, float]) -> np.ndarray:
    """A transmission over frequencies in steps, with Gaussian lines: centre, full width at half maximum, depth."""
    t = 0.5 + 1e-3 * numbers / N
    for centre, width, depth in lines:
        t = t - depth * np.exp(-4.0 * np.log(2.0) * ((numbers - centre) / width) ** 2)
    return t


class Made(Computation):
    """Spectra of such skies, one a PWV, in the place of those of am; it counts what it is asked for."""

    def _spectra(self, pieces: list[Piece], before: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.concatenate([piece.numbers for piece in pieces])
        asked.append(numbers.size)
        return numbers, -np.log([[[sky(numbers / FINEST, *lines)] for lines in skies]])


skies: list[tuple[tuple[float, float, float], ...]] = []
asked: list[int] = []


def refined(*each: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    """Frequencies, in steps, of a table of such skies."""
    skies[:], asked[:] = each, []
    nu, spectra = Made([], (0, N), 1.0, (), Path()).refined()
    np.testing.assert_allclose(np.exp(-spectra[0, :, 0]), [sky(nu, *lines) for lines in each], rtol=1e-12)
    return nu


def worst(every: np.ndarray, nu: np.ndarray, *lines: tuple[float, float, float]) -> float:
    """Largest error of the transmission from an opacity that is linear between ``nu``, as in a table."""
    return float(np.abs(np.exp(np.interp(every, nu, np.log(sky(nu, *lines)))) - sky(every, *lines)).max())


@pytest.mark.parametrize("centre", [100.0, 100.3, 100.5])
@pytest.mark.parametrize(("width", "spike"), [(3.0, 0.5), (6.0, 0.25), (6.0, 0.12), (6.0, 1.0)])
def test_a_spike_on_a_broader_line_is_followed(centre: float, width: float, spike: float) -> None:
    lines = ((centre, width, 0.02), (centre, spike, 0.02))
    nu, every, coarse = refined(lines), np.arange(N * 512 + 1) / 512, np.arange(N + 1.0)

    def error(of: np.ndarray) -> float:
        return worst(every, of, *lines)

    assert error(coarse) > 5 * TOLERANCE
    assert error(nu) < 2.0 * TOLERANCE
    assert np.isin(coarse, nu).all()
    assert nu.size < N + 1 + 80
    assert np.all(np.abs(nu[np.isin(nu, coarse, invert=True)] - centre) < 2 * width)
    assert sum(asked) < N + 1 + 400


def test_two_lines_far_apart_and_the_ends_of_the_band() -> None:
    lines = ((0.0, 3.0, 0.02), (50.0, 3.0, 0.02), (N, 3.0, 0.02))
    nu, every = refined(lines), np.arange(N * 64 + 1) / 64
    assert worst(every, nu, *lines) < 2.0 * TOLERANCE
    assert (nu[0], nu[-1]) == (0.0, N)
    assert np.all(np.diff(nu) > 0.0)


def test_smooth_air_needs_nothing() -> None:
    np.testing.assert_array_equal(refined(((100.0, 60.0, 0.3),)), np.arange(N + 1.0))
    refined(((100.0, 200.0, 0.3),))
    assert asked == [N + 1]


def test_every_profile_counts() -> None:
    """A line that only the second of two profiles shows is refined for both."""
    line = ((50.0, 3.0, 0.02),)
    np.testing.assert_array_equal(refined((), line), refined(line))
    assert refined(line).size > N + 1


def test_an_opaque_line_is_followed_in_the_opacity_not_in_the_transmission() -> None:
    """On the flank of a line the transmission may be straight where the opacity, which a table interpolates, is not."""
    lines = ((100.0, 3.0, 0.45),)
    nu, every = refined(lines), np.arange(N * 64 + 1) / 64
    assert worst(every, nu, *lines) < 2.0 * TOLERANCE


def test_cells_beside_a_bend_are_looked_into() -> None:
    tau = np.full(10, 0.5)
    tau[5] += 2.0 * BENDS[0] * np.exp(0.5)
    assert np.flatnonzero(curved_cells(tau, BENDS[0])).tolist() == [3, 4, 5, 6]
    assert not curved_cells(tau, 5.0 * BENDS[0]).any()
    assert not curved_cells(tau + 10.0, BENDS[0]).any()  # nothing comes through


def test_halves_are_halved_where_a_line_errs_and_ends_are_never_added() -> None:
    t = np.zeros((3, PARTS + 1))  # opacities so small that transmissions are as straight
    t[1, PARTS // 2] = 2.0 * TOLERANCE  # a peak in the middle: straight lines on both sides of it err by nothing more
    t[1] = np.interp(np.arange(PARTS + 1), [0, PARTS // 2, PARTS], t[1, [0, PARTS // 2, PARTS]])
    t[2, 1] = 2.0 * TOLERANCE
    kept = needed(t)
    assert [np.flatnonzero(row).tolist() for row in kept] == [[], [PARTS // 2], [1, 2, 4]]
