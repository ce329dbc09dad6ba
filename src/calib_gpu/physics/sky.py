"""The sky signal of a pixel as a function of the water vapour (physics, sections 4.3 and 4.4).

Both models of the atmosphere are linear in one quantity q(w, X) per band: a slab of one temperature in its transmission,
layers in what they send to the telescope. The fit knows q, dq/dw and d2q/dw2, and not which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.atmosphere import bin_means, bin_sums
from calib_gpu.physics.emission import Emission
from calib_gpu.physics.loads import LoadPowers

Floats = NDArray[np.float64]
Rows = Callable[[slice], Floats]

MODEL_ERROR: Final = 0.01
NODE_SPACING: Final = 0.55
"""Spacing in ln w of the PWVs at which the emission of layers is computed for the grid."""
STENCIL: Final = 6
"""Nodes that an interpolation takes."""
AIRMASS_RANGE: Final = 1.3
"""Largest over least airmass up to which q is interpolated between three of them, not five."""


class SkyBand(Protocol):
    """What the atmosphere does in one band: J_sky = ``offset`` - ``factor`` q(w, X), all ``[C]``; offset and factor in K."""

    @property
    def b(self) -> Floats:
        """Wet opacity, Np/mm."""
        ...

    @property
    def offset(self) -> Floats:
        """What does not depend on w, K."""
        ...

    @property
    def factor(self) -> Floats:
        """Coefficient of -q."""
        ...

    def value(self, w: float, x: float) -> Floats:
        """Q at a PWV [mm] and an airmass."""
        ...

    def moments(self, w: float, x: float) -> tuple[Floats, Floats, Floats]:
        """Q, dq/dw and d2q/dw2."""
        ...

    def gradient(self, w: float, x: float) -> tuple[Floats, Floats, Floats]:
        """Q, dq/dw, and the derivative with respect to a common factor of the dry opacity, at 1."""
        ...

    def on_grid(self, grid: Floats, channels: slice, x: Floats) -> Iterator[Rows]:
        """Q of some channels on a PWV grid, for each airmass: a function from rows of the grid to ``[rows, channels]``."""
        ...

    def emitted(self, w: float, x: float) -> Floats:
        """What the atmosphere itself sends to the telescope, K."""
        ...

    def scaled(self, dry_scale: float) -> SkyBand:
        """The band with its dry opacity multiplied."""
        ...


@dataclass(frozen=True)
class Slab:
    """An atmosphere of one temperature, q = t = exp(-X (b w + c)): eq. (13).

    ``b`` Np/mm, ``c`` Np; ``atm`` and ``background`` are J of the atmosphere and of what is behind it, K; ``[C]``.
    """

    b: Floats
    c: Floats
    atm: Floats
    background: Floats

    @property
    def offset(self) -> Floats:
        """J of the atmosphere."""
        return self.atm

    @property
    def factor(self) -> Floats:
        """J of the atmosphere less that of the background."""
        return self.atm - self.background

    def value(self, w: float, x: float) -> Floats:
        """The transmission, not limited to 1."""
        return np.asarray(np.exp(-x * (self.b * w + self.c)))

    def moments(self, w: float, x: float) -> tuple[Floats, Floats, Floats]:
        """T, -X b t and X^2 b^2 t."""
        t = self.value(w, x)
        slope = -x * self.b * t
        return t, slope, -x * self.b * slope

    def gradient(self, w: float, x: float) -> tuple[Floats, Floats, Floats]:
        """T, -X b t and -X c t."""
        t = self.value(w, x)
        return t, -x * self.b * t, -x * self.c * t

    def on_grid(self, grid: Floats, channels: slice, x: Floats) -> Iterator[Rows]:
        """Exact."""
        for at in x:
            b, c = -float(at) * self.b[channels], -float(at) * self.c[channels]

            def rows(where: slice, b: Floats = b, c: Floats = c) -> Floats:
                out = grid[where, None] * b
                out += c
                return np.exp(out, out=out)

            yield rows

    def emitted(self, w: float, x: float) -> Floats:
        """J_atm (1 - t), with t not above 1."""
        return self.atm * (1.0 - np.minimum(self.value(w, x), 1.0))

    def scaled(self, dry_scale: float) -> Slab:
        """With c multiplied."""
        return Slab(self.b, self.c * dry_scale, self.atm, self.background)


@dataclass(frozen=True)
class Layers:
    """A layered atmosphere, q = E + J_bg t: eqs. (13a, 13b). Fields as in :class:`Slab`."""

    b: Floats
    c: Floats
    emission: Emission
    background: Floats

    @property
    def offset(self) -> Floats:
        """Nothing: all of the sky is in q."""
        return np.zeros_like(self.b)

    @property
    def factor(self) -> Floats:
        """-1: q is the brightness itself."""
        return np.full_like(self.b, -1.0)

    def value(self, w: float, x: float) -> Floats:
        """E + J_bg t, K."""
        value = self.emitted(w, x)
        return value + self._behind(w, x) if self.background.any() else value

    def moments(self, w: float, x: float) -> tuple[Floats, Floats, Floats]:
        """With the closed derivatives of (13a)."""
        value, slope, curvature = self.emission.at(self.b, self.c, w, x)
        if self.background.any():
            behind, xb = self._behind(w, x), x * self.b
            return value + behind, slope - xb * behind, curvature + xb * xb * behind
        return value, slope, curvature

    def gradient(self, w: float, x: float) -> tuple[Floats, Floats, Floats]:
        """The same with the dry part in the place of the wet one."""
        value, wet, dry = self.emission.gradient(self.b, self.c, w, x)
        if self.background.any():
            behind = self._behind(w, x)
            return value + behind, wet - x * self.b * behind, dry - x * self.c * behind
        return value, wet, dry

    def on_grid(self, grid: Floats, channels: slice, x: Floats) -> Iterator[Rows]:
        """Interpolated."""
        part = Layers(self.b[channels], self.c[channels], self.emission.part(channels), self.background[channels])
        return AtNodes.of(grid, x, part.value).on_grid()

    def emitted(self, w: float, x: float) -> Floats:
        """E, K."""
        return self.emission.value(self.b, self.c, w, x)

    def scaled(self, dry_scale: float) -> Layers:
        """With c and the dry part of the emission multiplied."""
        return Layers(self.b, self.c * dry_scale, self.emission.scaled(dry_scale), self.background)

    def _behind(self, w: float, x: float) -> Floats:
        return np.asarray(self.background * np.exp(-x * (self.b * w + self.c)))


@dataclass(frozen=True)
class AtNodes:
    """Q at a few PWVs and airmasses, from which it is interpolated to a PWV grid and to the airmass of each OFF.

    It comes to 1e-3 of a grid step, which is enough to choose a point of the grid: the minimum itself is found with exact
    values. ``known`` is [airmass, node, C], ``shares`` [O, airmass] are the weights of the airmasses.
    """

    nodes: Nodes
    shares: Floats
    known: Floats

    @classmethod
    def of(cls, grid: Floats, x: Floats, value: Callable[[float, float], Floats]) -> AtNodes:
        """From ``value(w, X)`` ``[C]``, for a grid of PWVs [mm] and the airmass of each OFF ``[O]``."""
        nodes = Nodes.of(grid)
        airmasses, shares = airmass_nodes(x)
        known = np.array([[value(float(w), float(at)) for w in nodes.pwv] for at in airmasses])
        return cls(nodes, shares, known)

    def values(self, o: int) -> Floats:
        """Q at the nodes and the airmass of an OFF ``[node, C]``."""
        return np.asarray(np.tensordot(self.shares[o], self.known, axes=1))

    def on_grid(self) -> Iterator[Rows]:
        """Rows of the grid, for each OFF."""
        for o in range(self.shares.shape[0]):
            values = self.values(o)

            def rows(where: slice, values: Floats = values) -> Floats:
                first, weights = self.nodes.first[where], self.nodes.weights[where]
                span = slice(int(first[0]), int(first[-1]) + weights.shape[1])
                dense = np.zeros((first.size, span.stop - span.start))
                places = (first - span.start)[:, None] + np.arange(weights.shape[1])
                np.put_along_axis(dense, places, weights, axis=1)
                return np.asarray(dense @ values[span])

            yield rows


def airmass_nodes(x: Floats) -> tuple[Floats, Floats]:
    """Airmasses at which q is computed, and the weights ``[O, node]`` that interpolate to those of the OFFs ``x``.

    Three where the OFFs are close to each other, else five; no more than there are different ones.
    """
    nodes, place = np.unique(x, return_inverse=True)
    n = 3 if nodes[-1] <= AIRMASS_RANGE * nodes[0] else 5
    if nodes.size <= n:
        return nodes, np.eye(nodes.size)[place]
    nodes = np.linspace(nodes[0], nodes[-1], n)
    return nodes, np.array([lagrange(nodes, float(at)) for at in x])


def lagrange(nodes: Floats, at: float) -> Floats:
    """Weights of the polynomial through all nodes."""
    return np.array([np.prod([(at - m) / (n - m) for m in nodes if m != n]) for n in nodes])


@dataclass(frozen=True)
class Nodes:
    """PWVs at which a model is calculated, to be interpolated to a grid.

    ``pwv`` [node] mm, even in ln w from end to end of the grid; grid point j is the sum of ``weights`` [grid, taps] times
    the nodes from ``first`` [grid] on. Where that saves nothing the nodes are the grid itself.
    """

    pwv: Floats
    first: NDArray[np.intp]
    weights: Floats

    @classmethod
    def of(cls, grid: Floats) -> Nodes:
        """The nodes of a grid [mm], which is even in ln w or nearly so: Lagrange interpolation between six of them."""
        u = np.log(grid)
        n = max(STENCIL + 1, int(np.ceil((u[-1] - u[0]) / NODE_SPACING)) + 1)
        if grid.size <= n:
            return cls(grid, np.arange(grid.size), np.ones((grid.size, 1)))
        place = (u - u[0]) / (u[-1] - u[0]) * (n - 1)
        first = np.clip(np.floor(place).astype(int) - STENCIL // 2 + 1, 0, n - STENCIL)
        weights = np.empty((grid.size, STENCIL))
        for k in range(STENCIL):
            others = [m for m in range(STENCIL) if m != k]
            weights[:, k] = np.prod([(place - first - m) / (k - m) for m in others], axis=0)
        return cls(np.exp(u[0] + np.arange(n) * (u[-1] - u[0]) / (n - 1)), first, weights)


@dataclass(frozen=True)
class Sky:
    """The sky of a scan: the signal band, the image band where there is one, and J of the spillover in both [K].

    ``bins`` are the first channels of the bins ``[B]`` in which the fit takes mean values; without them every channel
    counts alone. ``use`` are the channels ``[C]`` that count in those means; None for all.
    """

    bands: tuple[SkyBand, ...]
    spill: tuple[Floats, ...]
    bins: NDArray[np.intp] | None = None
    use: NDArray[np.bool_] | None = None

    def mean(self, values: Floats) -> Floats:
        """Mean of ``[C]`` in each bin ``[B]``: of exp(-X tau), never exp of the mean; ``values`` itself without bins."""
        if self.bins is None:
            return values
        if self.use is None:
            return bin_means(values, self.bins)
        count = bin_sums(self.use.astype(np.float64), self.bins)
        return bin_sums(np.where(self.use, values, 0.0), self.bins) / np.maximum(count, 1.0)

    def on_grid(self, band: SkyBand, grid: Floats, channels: slice, x: Floats) -> Iterator[Rows]:
        """Q of a band on a PWV grid in some channels, or bins: there interpolated between means at a few nodes."""
        if self.bins is None:
            return band.on_grid(grid, channels, x)
        return AtNodes.of(grid, x, lambda w, at: self.mean(band.value(w, at))[channels]).on_grid()

    def scaled(self, dry_scale: float) -> Sky:
        """The sky with its dry opacity multiplied."""
        return self if dry_scale == 1.0 else replace(self, bands=tuple(b.scaled(dry_scale) for b in self.bands))

    def model(self, powers: LoadPowers, g_signal: Floats, g_image: Floats, eta_f: float) -> SkyModel:
        """Coefficients of the sky signal for one pixel, eq. (13), on channels."""
        hot = (powers.hot_signal, powers.hot_image)
        k0: Floats | float = 0.0
        a = []
        for band, spill, p_hot, g in zip(self.bands, self.spill, hot, (g_signal, g_image), strict=False):
            term = g * (eta_f * band.offset + (1.0 - eta_f) * spill - p_hot)
            k0 = term if isinstance(k0, float) else k0 + term
            a.append(g * eta_f * band.factor)
        return SkyModel(np.asarray(k0), a[0], a[1] if len(a) > 1 else np.zeros_like(a[0]))


@dataclass(frozen=True)
class SkyModel:
    """S_H(w) = K0 - A_s q_s(w) - A_i q_i(w), eq. (13), for one pixel: ``k0``, ``a_signal``, ``a_image`` in K, ``[C]``."""

    k0: Floats
    a_signal: Floats
    a_image: Floats


def residuals(observed: Floats, model: SkyModel, sky: Sky, x: Floats, w: float) -> Floats:
    """S_H,obs - S_H of one pixel at PWV ``w`` ``[O, C]``, K."""
    out = observed - model.k0
    for band, a in zip(sky.bands, (model.a_signal, model.a_image), strict=False):
        out += a * np.array([sky.mean(band.value(w, float(of_off))) for of_off in x])
    return np.asarray(out)


def sky_signal(off: Floats, hot: Floats, gain: Floats) -> Floats:
    """Observed sky signal S_H = (C_OFF - C_h) / G [K], eq. (12); ``off`` may have more axes in front of ``[C]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (off - hot) / gain


def radiometer_weights(
    observed: Floats, off: Floats, hot: Floats, zero: Floats | float, gain: Floats, bandwidth: float,
    t_off: Floats, t_hot: float,
) -> Floats:  # fmt: skip
    """W = 1 / (sigma_rad^2 + sigma_sys^2) of S_H,obs ``[O, C]``, 1/K^2 (physics, 4.4).

    sigma_rad is the radiometer noise of OFF and HOT (exposures ``t_off`` [O] and ``t_hot`` in s, ``bandwidth`` in Hz),
    sigma_sys a model error of 1 % of the signal.
    """
    variance = (off - zero) ** 2 / (bandwidth * t_off[:, None]) + (hot - zero) ** 2 / (bandwidth * t_hot)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1.0 / (variance / gain**2 + (MODEL_ERROR * observed) ** 2))
