"""The data of the PWV fit, pixel by pixel, and the fit itself: joint, per OFF and per pixel (physics, sections 4.3 to 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import Backend
from calib_gpu.errors import MissingValue
from calib_gpu.physics.atmosphere import (
    Opacity,
    SkyModel,
    SkySums,
    SkyTemperatures,
    bin_sums,
    radiometer_weights,
    residuals,
    sky_model,
    sky_signal,
)
from calib_gpu.physics.loads import load_contrast
from calib_gpu.physics.pwv import PwvFit, PwvLimits, fit_from_grid, fit_pwv
from calib_gpu.records import Bools, Floats, OffSpectra, Receiver, Scan
from calib_gpu.settings import Settings
from calib_gpu.stages.resolve import ResolvedLoads
from calib_gpu.store.pixel_arrays import release

CLIP = 4.0 * 1.4826


@dataclass(frozen=True)
class _PixelData:
    """S_H,obs ``[O, C]`` in K, what is left out, the model, and the weights (None: 1)."""

    observed: Floats
    bad: Bools
    model: SkyModel
    weights: Floats | None


@dataclass(frozen=True)
class SkyFit:
    """Everything that the fit of one scan needs; C is the channel, or the bin where ``opacity`` has bins."""

    scan: Scan
    offs: OffSpectra
    resolved: ResolvedLoads
    rx: Receiver
    temperatures: SkyTemperatures
    opacity: Opacity
    x: Floats
    settings: Settings
    backend: Backend

    @property
    def limits(self) -> PwvLimits:
        """Bounds of the fit."""
        s = self.settings
        return PwvLimits(s.pwv_min, s.pwv_max, s.min_points, s.fit_weights == "unit")

    def run(self) -> tuple[PwvFit, list[PwvFit], NDArray[Any]]:
        """The joint fit, that of each OFF, and that of each pixel ``[R, A]`` (empty unless asked for)."""
        joint, each_off = self._joint_and_per_off(self._sums(None))
        keep = None
        if self.settings.pwv_clip and joint.constrained:
            keep = self._clip_limits(joint.pwv)
            joint, each_off = self._joint_and_per_off(self._sums(keep))
        n_r, n_a = self.resolved.calibration.bad.shape[1:]
        fits = np.empty((n_r, n_a) if self.settings.pwv_scope == "per_pixel" else (0, 0), dtype=object)
        for r, a in np.ndindex(fits.shape):
            sums = self._no_sums()
            self._add_pixel(sums, r, a, keep)
            fits[r, a] = fit_pwv(sums, self.opacity, self.x, self.limits, self.backend.pwv_grid)
        return joint, each_off, fits

    def _joint_and_per_off(self, sums: SkySums) -> tuple[PwvFit, list[PwvFit]]:
        """The joint fit, and one for each OFF: chi2 on the grid is computed once for all."""
        limits, x, opacity = self.limits, self.x, self.opacity
        grid = limits.grid
        chi2 = self.backend.pwv_grid(sums, opacity, x, grid)
        joint = fit_from_grid(sums, opacity, x, limits, grid, chi2.sum(axis=1))
        if x.size == 1:
            return joint, [joint]
        each = [fit_from_grid(sums.off(o), opacity, x[o : o + 1], limits, grid, chi2[:, o]) for o in range(x.size)]
        return joint, each

    def _no_sums(self) -> SkySums:
        return SkySums.zeros(
            self.x.size, self.scan.signal.size if self.opacity.bins is None else self.opacity.bins.size
        )

    def _sums(self, keep: tuple[float, float, float] | None) -> SkySums:
        """Sums over all pixels, in their order."""
        total = self._no_sums()
        for r, a in np.ndindex(self.resolved.calibration.bad.shape[1:]):
            self._add_pixel(total, r, a, keep)
        return total

    def _add_pixel(self, sums: SkySums, r: int, a: int, keep: tuple[float, float, float] | None) -> None:
        """Add one pixel; ``keep`` (PWV, centre, half width) leaves out residuals outside."""
        data = self._pixel(r, a)
        bad = data.bad
        if keep is not None:
            residual = residuals(data.observed, data.model, self.opacity, self.x, keep[0])
            with np.errstate(invalid="ignore"):
                bad = bad | ~(np.abs(residual - keep[1]) <= keep[2])
        self.backend.sky_sums(sums, data.observed, bad, data.model, data.weights)

    def _clip_limits(self, pwv: float) -> tuple[float, float, float]:
        """PWV, median and 4 robust sigma of the residuals of the joint fit, over all pixels, OFFs and channels."""
        parts = []
        for r, a in np.ndindex(self.resolved.calibration.bad.shape[1:]):
            data = self._pixel(r, a)
            residual = residuals(data.observed, data.model, self.opacity, self.x, pwv)
            parts.append(residual[np.isfinite(residual) & ~data.bad])
        residual = np.concatenate(parts)
        centre = float(np.median(residual))
        return pwv, centre, CLIP * float(np.median(np.abs(residual - centre)))

    def _pixel(self, r: int, a: int) -> _PixelData:
        """Data of one pixel on channels or bins; counts are averaged in a bin before any ratio is formed."""
        cal, gains, powers = self.resolved.calibration, self.rx.gains.pixel(r, a), self.resolved.mean_powers
        off, hot, cold = self.offs.mean[:, r, a].T, cal.hot[:, r, a], cal.cold[:, r, a]
        zero: Floats | float = cal.zero_of(r, a)
        model = sky_model(self.temperatures, powers, *gains, self.rx.eta_f)
        bad, gain = np.broadcast_to(cal.bad[:, r, a], off.shape), cal.gain[:, r, a]
        if self.opacity.bins is not None:
            good = ~bad & np.isfinite(off)
            count = bin_sums(good.astype(np.float64), self.opacity.bins)

            def binned(values: Any) -> Floats:
                total = bin_sums(np.where(good, values, 0.0), self.opacity.bins)  # type: ignore[arg-type]
                with np.errstate(invalid="ignore", divide="ignore"):
                    return np.asarray(total / count)

            mean = self.opacity.mean
            model = SkyModel(mean(model.k0), mean(model.a_signal), mean(model.a_image))
            off, hot, cold, zero, bad = binned(off), binned(hot), binned(cold), binned(zero), count == 0.0
            gain = (hot - cold) / mean(load_contrast(powers, *gains))
        observed = sky_signal(off, hot, gain)
        release(self.offs.mean[:, r, a], *(v[:, r, a] for v in (cal.hot, cal.cold, cal.gain)))
        weights = None
        if self.settings.fit_weights == "radiometer":
            loads = self.resolved.loads.sets[0]
            bandwidth = abs(self.scan.source.tuning.spacing)
            t_hot = loads.hot_band.shape[0] * loads.dump_time
            if not (t_hot > 0.0 and min(self.offs.mean_exposure) > 0.0):
                raise MissingValue("needed for fit_weights=radiometer", array="exptime", rule="> 0 s for OFF and HOT")
            weights = radiometer_weights(
                observed, off, hot, zero, gain, bandwidth, np.array(self.offs.mean_exposure), t_hot
            )
        return _PixelData(observed, bad, model, weights)
