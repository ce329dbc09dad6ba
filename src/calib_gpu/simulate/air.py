"""The air of a simulated night: a slab of one temperature, or layers as am computed them.

Nothing of how the calibration describes layers is used: opacities are those of am at each water vapour, not a straight line,
and what the air sends down is am's own at four water vapours and four airmasses, interpolated by polynomials.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError
from calib_gpu.store.chunks import ChunkedArray

Floats = NDArray[np.float64]

PRESSURE_HPA: Final = 530.0
GROUND_K: Final = 265.0
"""Where the layers end: pressure and temperature at the telescope."""

BANDS_HZ: Final = ((478.1e9, 482.2e9), (490.1e9, 494.2e9))
PWV_MM: Final = (0.1, 0.4, 0.8, 1.5)
AIRMASS: Final = (1.0, 1.3, 1.8, 3.0)
"""What ``scripts/make_air`` computes."""


class Band(Protocol):
    """The air in one sideband. Zenith opacity c + b w + b2 w^2: ``c`` Np, ``b`` Np/mm, ``b2`` Np/mm^2, each ``[C]``."""

    @property
    def b(self) -> Floats: ...
    @property
    def c(self) -> Floats: ...
    @property
    def b2(self) -> Floats: ...

    def tau(self, w: float) -> Floats:
        """Zenith opacity at a water vapour in mm, Np."""
        ...

    def brightness(self, w: float, x: float) -> Floats:
        """J of what radiates, K: the air sends J (1 - t) down at a water vapour in mm and an airmass."""
        ...


@dataclass(frozen=True)
class SlabBand:
    """Air of one temperature; ``j_atm`` is its J ``[C]``, K."""

    b: Floats
    c: Floats
    j_atm: Floats

    @property
    def b2(self) -> Floats:
        """None."""
        return np.zeros_like(self.b)

    def tau(self, w: float) -> Floats:
        """B w + c."""
        return self.b * w + self.c

    def brightness(self, w: float, x: float) -> Floats:
        """That of the slab, whatever is asked."""
        return self.j_atm


@dataclass(frozen=True)
class LayeredBand:
    """Air in layers; ``source`` is tau J in K Np at the nodes ``[len(PWV_MM), len(AIRMASS), C]``: smooth in both."""

    b: Floats
    c: Floats
    b2: Floats
    source: Floats

    def tau(self, w: float) -> Floats:
        """As am finds it, to 1e-7 in transmission."""
        return (self.b2 * w + self.b) * w + self.c

    def brightness(self, w: float, x: float) -> Floats:
        """Polynomials through the nodes: to 0.06 K of am, to 0.1 K in lines."""
        value = np.einsum("w,x,wxc->c", _lagrange(PWV_MM, w), _lagrange(AIRMASS, x), self.source)
        return np.asarray(value / self.tau(w))


def _lagrange(nodes: tuple[float, ...], at: float) -> Floats:
    """Weights of the polynomial through all nodes."""
    return np.array([np.prod([(at - m) / (n - m) for m in nodes if m != n]) for n in nodes])


def layers(frequency: Floats) -> LayeredBand:
    """The layers at the frequencies of a band ``[C]``, Hz."""
    folder = Path(str(resources.files("calib_gpu.simulate") / "layers"))
    names = ("frequency_hz", "b", "c", "b2", "source")
    nu, *values = (ChunkedArray(folder / n, n, absent_is_fill=False).values().astype(np.float64) for n in names)
    if not any(low <= frequency.min() and frequency.max() <= high for low, high in BANDS_HZ):
        raise ConfigError(
            "no layers for this band", array="sky", value=f"{frequency.min() / 1e9:g} to {frequency.max() / 1e9:g} GHz",
            rule=f"{BANDS_HZ} Hz",
        )  # fmt: skip
    b, c, b2 = (np.interp(frequency, nu, v) for v in values[:3])
    source = np.apply_along_axis(lambda v: np.interp(frequency, nu, v), -1, values[3])
    return LayeredBand(b, c, b2, source)


def check_layers(pwv: Floats, airmass: Floats) -> None:
    """Raise :class:`ConfigError` where water vapour (mm) or airmass leave what the layers were computed for."""
    for name, values, nodes in (("pwv", pwv, PWV_MM), ("elevation", airmass, AIRMASS)):
        if values.min() < nodes[0] or values.max() > nodes[-1]:
            what = "mm" if name == "pwv" else "airmass"
            raise ConfigError(
                "outside the layers of the simulation", array=name, value=f"{values.min():.4g} to {values.max():.4g} {what}",
                rule=f"{nodes[0]:g} to {nodes[-1]:g} {what}",
            )  # fmt: skip
