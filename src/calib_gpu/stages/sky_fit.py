"""The data of the PWV fit, pixel by pixel, and the fit itself: joint, per OFF and per pixel (physics, sections 4.3 to 4.5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import Backend
from calib_gpu.errors import MissingValue
from calib_gpu.physics.atmosphere import bin_sums
from calib_gpu.physics.dry_scale import DryScale, demanded, fit_dry_scale, suggested
from calib_gpu.physics.loads import load_contrast
from calib_gpu.physics.pwv import PwvFit, PwvLimits, fit_from_grid, fit_pwv
from calib_gpu.physics.robust import median
from calib_gpu.physics.sky import Sky, SkyModel, radiometer_weights, residuals
from calib_gpu.physics.sky_sums import SkyData, SkySums
from calib_gpu.records import Bools, Floats, OffSpectra, Receiver, Scan
from calib_gpu.settings import Settings
from calib_gpu.stages.resolve import ResolvedLoads
from calib_gpu.store.pixel_arrays import release

CLIP = 4.0 * 1.4826


@dataclass(frozen=True)
class _Keep:
    """Residuals [K] from the sky at a PWV [mm] that are kept."""

    sky: Sky
    pwv: float
    centre: float
    half_width: float


@dataclass(frozen=True)
class SkyResult:
    """The joint fit, that of each OFF, that of each pixel ``[R, A]`` (empty unless asked for), and the dry opacity.

    ``suggested`` is the factor of the dry opacity that the data demand where none was fitted, or None.
    """

    joint: PwvFit
    each_off: list[PwvFit]
    pixels: NDArray[Any]
    dry: DryScale
    suggested: float | None


@dataclass(frozen=True)
class SkyFit:
    """Everything that the fit of one scan needs; C is the channel, or the bin where ``sky`` has bins.

    ``use`` ``[C]`` are the channels inside the windows of the fit.
    """

    scan: Scan
    offs: OffSpectra
    resolved: ResolvedLoads
    rx: Receiver
    sky: Sky
    x: Floats
    use: Bools
    settings: Settings
    backend: Backend

    @property
    def limits(self) -> PwvLimits:
        """Bounds of the fit."""
        s = self.settings
        return PwvLimits(s.pwv_min, s.pwv_max, s.min_points, s.fit_weights == "unit")

    def run(self, *, suggest: bool) -> SkyResult:
        """All fits; ``suggest`` asks what factor of the dry opacity the data demand."""
        sums, keep = self._sums(None), None
        joint, each_off, dry = self._fits(sums)
        if self.settings.pwv_clip and joint.constrained:
            keep = self._clip_limits(self.sky.scaled(dry.value), joint.pwv)
            sums = self._sums(keep)
            joint, each_off, dry = self._fits(sums)
        hint = suggested(sums, self.sky, self.x, self.limits, joint) if suggest and not dry.fitted else None
        sky = self.sky.scaled(dry.value)
        n_r, n_a = self.resolved.calibration.bad.shape[1:]
        fits = np.empty((n_r, n_a) if self.settings.pwv_scope == "per_pixel" else (0, 0), dtype=object)
        for r, a in np.ndindex(fits.shape):
            fits[r, a] = fit_pwv(self._sums(keep, [(r, a)]), sky, self.x, self.limits, self.backend.pwv_grid)
        return SkyResult(joint, each_off, fits, dry, hint)

    def _fits(self, sums: SkySums) -> tuple[PwvFit, list[PwvFit], DryScale]:
        """The joint fit, one for each OFF, and the dry opacity that they stand on."""
        asked = self.settings.dry_scale
        if not isinstance(asked, str):
            dry = DryScale(float(asked))
            return *self._joint_and_per_off(sums, self.sky.scaled(dry.value)), dry
        joint, each_off = self._joint_and_per_off(sums, self.sky)
        dry = fit_dry_scale(sums, self.sky, self.x, self.limits, joint)
        if not dry.fitted or dry.pwv_error is None:
            return joint, each_off, dry
        if asked == "auto" and not demanded(joint, dry):
            return joint, each_off, DryScale()
        joint, each_off = self._joint_and_per_off(sums, self.sky.scaled(dry.value))
        return replace(joint, error=dry.pwv_error), each_off, dry

    def _joint_and_per_off(self, sums: SkySums, sky: Sky) -> tuple[PwvFit, list[PwvFit]]:
        """The joint fit, and one for each OFF: chi2 on the grid is computed once for all."""
        limits, x = self.limits, self.x
        grid = limits.grid
        chi2 = self.backend.pwv_grid(sums, sky, x, grid)
        joint = fit_from_grid(sums, sky, x, limits, grid, chi2.sum(axis=1))
        if x.size == 1:
            return joint, [joint]
        each = [fit_from_grid(sums.off(o), sky, x[o : o + 1], limits, grid, chi2[:, o]) for o in range(x.size)]
        return joint, each

    def _sums(self, keep: _Keep | None, pixels: Iterable[tuple[int, ...]] | None = None) -> SkySums:
        """Sums over some pixels (None: all) in their order."""
        n_channel = self.scan.signal.size if self.sky.bins is None else self.sky.bins.size
        chosen = np.ndindex(self.resolved.calibration.bad.shape[1:]) if pixels is None else pixels
        return self.backend.sky_sums(self.x.size, n_channel, (self._kept(r, a, keep) for r, a in chosen))

    def _kept(self, r: int, a: int, keep: _Keep | None) -> SkyData:
        """Data of one pixel; ``keep`` leaves out residuals."""
        data = self._pixel(r, a)
        if keep is None:
            return data
        residual = residuals(data.observed, data.model, keep.sky, self.x, keep.pwv)
        with np.errstate(invalid="ignore"):
            return replace(data, bad=data.bad | ~(np.abs(residual - keep.centre) <= keep.half_width))

    def _clip_limits(self, sky: Sky, pwv: float) -> _Keep:
        """Median and 4 robust sigma of the residuals of the joint fit, over all pixels, OFFs and channels."""
        parts = []
        for r, a in np.ndindex(self.resolved.calibration.bad.shape[1:]):
            data = self._pixel(r, a)
            residual = residuals(data.observed, data.model, sky, self.x, pwv)
            parts.append(residual[np.isfinite(residual) & ~data.bad])
        residual = np.concatenate(parts)
        centre = median(residual)
        return _Keep(sky, pwv, centre, CLIP * median(np.abs(residual - centre)))

    def _pixel(self, r: int, a: int) -> SkyData:
        """Data of one pixel on channels or bins; counts are averaged in a bin before any ratio is formed."""
        cal, gains, powers = self.resolved.calibration, self.rx.gains.pixel(r, a), self.resolved.mean_powers
        off, hot, cold = self.offs.mean[:, r, a].T, cal.hot[:, r, a], cal.cold[:, r, a]
        zero: Floats | float = cal.zero_of(r, a)
        model = self.sky.model(powers, *gains, self.rx.eta_f)
        bad, gain = np.broadcast_to(cal.bad[:, r, a] | ~self.use, off.shape), cal.gain[:, r, a]
        if self.sky.bins is not None:
            good = ~bad & np.isfinite(off)
            count = bin_sums(good.astype(np.float64), self.sky.bins)

            def binned(values: Any) -> Floats:
                total = bin_sums(np.where(good, values, 0.0), self.sky.bins)  # type: ignore[arg-type]
                with np.errstate(invalid="ignore", divide="ignore"):
                    return np.asarray(total / count)

            mean = self.sky.mean
            model = SkyModel(mean(model.k0), mean(model.a_signal), mean(model.a_image))
            off, hot, cold, zero, bad = binned(off), binned(hot), binned(cold), binned(zero), count == 0.0
            gain = (hot - cold) / mean(load_contrast(powers, *gains))
        observed = self.backend.sky_signal(off, hot, gain)
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
        return SkyData(observed, bad, model, weights)
