"""Stage 3, atmosphere: the water vapour from the OFF and HOT counts, and the opacity of both sidebands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.atm.builtin import find_builtin, given_table
from calib_gpu.atm.table import OpacityTable
from calib_gpu.backend.base import Backend
from calib_gpu.errors import ConfigError, MissingValue
from calib_gpu.physics.atmosphere import PASCAL_PER_TORR, Opacity, airmass, bin_starts
from calib_gpu.physics.dry_scale import DryScale
from calib_gpu.physics.pwv import PwvFit
from calib_gpu.physics.robust import median
from calib_gpu.physics.sky import Sky
from calib_gpu.records import Atmosphere, Floats, OffSpectra, Receiver, Scan
from calib_gpu.schema import ScanFlag
from calib_gpu.settings import Settings
from calib_gpu.stages.resolve import ResolvedLoads
from calib_gpu.stages.site import needed_value, site_value
from calib_gpu.stages.sky_fit import SkyFit, SkyResult
from calib_gpu.stages.sky_model import SkySource, choose_sky, effective_temperature, no_t_eff
from calib_gpu.store.l0_group import is_finite


def find_table(scan: Scan, rx: Receiver, settings: Settings) -> OpacityTable | None:
    """The table that the settings ask for; None without atmosphere."""
    if settings.atmosphere == "none":
        return None
    if settings.atmosphere == "auto":
        axes = [scan.topocentric_signal] + ([] if rx.gains.single_sideband else [scan.topocentric_image])
        torr = site_value(scan, "pamb")
        return find_builtin(*axes, pressure=None if torr is None else torr * PASCAL_PER_TORR)
    return given_table(settings.atmosphere)


def check_table(settings: Settings) -> None:
    """Raise what is wrong with the table of the settings before any scan is touched."""
    if settings.atmosphere in ("auto", "none"):
        return
    table = given_table(settings.atmosphere)
    used = settings.outranks_store("t_atm") and settings.pwv == "fit"
    if used and settings.t_atm == "table" and table.t_eff is None:
        raise no_t_eff()


def no_atmosphere(scan: Scan) -> Atmosphere:
    """No atmosphere: the transmission is 1 everywhere."""
    zero = np.zeros_like(scan.signal)
    return Atmosphere(None, None, "none", "none", zero, zero.copy())


def fit_atmosphere(
    scan: Scan, offs: OffSpectra, resolved: ResolvedLoads, rx: Receiver, settings: Settings, backend: Backend
) -> Atmosphere:
    """Water vapour and zenith opacities of a scan.

    Raises
    ------
    AtmRange, BadElevation, MissingValue, ConfigError
        The table does not cover the band, an elevation is bad, a site value is missing, the table is unusable.
    """
    table = find_table(scan, rx, settings)
    if table is None:
        return no_atmosphere(scan)
    if "elevation" not in scan.source.arrays:
        raise MissingValue("needed for the airmass", array="source/elevation", fix="or use --atmosphere none")
    image = None if rx.gains.single_sideband else scan.topocentric_image
    torr = None
    if table.pressure.size > 1:
        torr = needed_value(scan, "pamb", "for an opacity table of several layers", "use a table of one layer")
    pressure = None if torr is None else torr * PASCAL_PER_TORR
    opacity = table.opacity(scan.topocentric_signal, image, pressure)
    flags = int(ScanFlag.ATM_CLAMPED) if opacity.clamped else 0
    warnings = []
    if table.synthetic and scan.source.attrs.get("simulated") is not True:
        warnings.append(f"opacity table {table.name} is synthetic: good for simulations, not for science")
    elevation = {s.index: s.elevation for s in scan.source.subscans}
    x = airmass([elevation[i] for i in offs.index], settings.airmass, settings.shell_height_km)
    if settings.pwv != "fit":
        dry = DryScale() if isinstance(settings.dry_scale, str) else DryScale(settings.dry_scale)
        given = {"pwv_error": 0.0, "status": "fixed", "source": "fixed", "dry": dry}
        return _at(opacity, float(settings.pwv), given, table, flags, warnings)
    choice = choose_sky(scan, SkySource(table, opacity, pressure), settings, rx.eta_f)
    sky, warnings = choice.sky, warnings + choice.warnings
    if torr is not None:
        choice.used["pamb"] = {"value": torr, "from": "store"}
    flags |= int(ScanFlag.T_ATM_DEFAULTED) if choice.defaulted else 0
    use = _windows(scan, settings)
    if n_bins := settings.bins_of(scan.signal.size):
        sky = replace(sky, bins=bin_starts(scan.signal.size, n_bins), use=None if use.all() else use)
    result = SkyFit(scan, offs, resolved, rx, sky, x, use, settings, backend).run(suggest=choice.layered)
    pwv, source = _chosen(scan, result, settings)
    flag, said = _judged(result, pwv, source, settings)
    more = _fitted(result) | {"source": source, "used": choice.used, "sky": choice.sky.scaled(result.dry.value)}
    if choice.layered:
        more["t_eff"] = _effective_temperatures(scan, more["sky"], opacity.tau(pwv, result.dry.value), pwv, x)
    return _at(opacity, pwv, more, table, flags | flag, warnings + said)


def _windows(scan: Scan, settings: Settings) -> NDArray[np.bool_]:
    """Channels ``[C]`` whose topocentric signal frequency lies in a window of the fit."""
    nu, windows = scan.topocentric_signal, settings.windows_hz
    use = np.logical_or.reduce([(nu >= low) & (nu <= high) for low, high in windows] or [np.ones(nu.size, bool)])
    if not use.any():
        raise ConfigError(
            "no channel lies in the windows of the fit", array="fit_windows", value=settings.fit_windows,
            rule=f"signal band {nu.min() / 1e9:.4f} to {nu.max() / 1e9:.4f} GHz",
        )  # fmt: skip
    return np.asarray(use)


def _chosen(scan: Scan, result: SkyResult, settings: Settings) -> tuple[float, str]:
    """The PWV that is used [mm], and where it is from."""
    if not result.joint.constrained:
        return _fallback(scan, settings)
    fits = {"scan": [], "per_off": result.each_off, "per_pixel": result.pixels.ravel().tolist()}[settings.pwv_scope]
    return _median(fits, result.joint.pwv), "fit"


def _judged(result: SkyResult, pwv: float, source: str, settings: Settings) -> tuple[int, list[str]]:
    """Scan flags of the fit, and what is to be said about it."""
    joint, dry, flags, said = result.joint, result.dry, 0, []
    if not joint.constrained:
        flags |= ScanFlag.PWV_FALLBACK
        said.append(f"the sky signal does not constrain the water vapour: {pwv:g} mm from {source} is used")
    if joint.status in ("at_lower_bound", "at_upper_bound"):
        flags |= ScanFlag.PWV_AT_BOUND
        said.append(
            f"the water vapour fit ends at its bound, {joint.pwv:g} mm: check eta_f, t_atm and the load temperatures"
        )
    if dry.status == "at_bound":
        said.append(f"the scale of the dry opacity ends at its bound, {dry.value:g}: check the table, eta_f and t_atm")
    elif settings.dry_scale == "fit" and not dry.fitted:
        said.append(f"the scale of the dry opacity could not be fitted ({dry.status}): 1 is used")
    return int(flags), said


def _fitted(result: SkyResult) -> dict[str, Any]:
    """What the fit says of itself."""
    joint, n_parameter = result.joint, 2 if result.dry.fitted else 1
    return {
        "pwv_error": _number(joint.error), "status": joint.status, "rms_k": _number(joint.rms),
        "chi2_reduced": joint.chi2 / (joint.n - n_parameter) if joint.n > n_parameter else None,
        "off_pwv": tuple(_number(f.pwv) for f in result.each_off),
        "pixel_pwv": np.vectorize(lambda f: f.pwv, otypes=[float])(result.pixels) if result.pixels.size else None,
        "dry": result.dry, "dry_scale_suggested": result.suggested,
    }  # fmt: skip


def _effective_temperatures(
    scan: Scan, sky: Sky, tau: tuple[Floats, Floats], pwv: float, x: Floats
) -> tuple[Floats, Floats]:
    """T_eff of signal and image band ``[C]`` at the PWV and the mean airmass of the OFFs, K; NaN without an image band."""
    mean = float(np.mean(x))
    axes = (scan.topocentric_signal, scan.topocentric_image)
    found = [effective_temperature(*of_band, pwv, mean) for of_band in zip(axes, sky.bands, tau, strict=False)]
    return found[0], found[1] if len(found) > 1 else np.full_like(found[0], np.nan)


def _at(
    opacity: Opacity, pwv: float, more: dict[str, Any], table: OpacityTable, flags: int, warnings: list[str]
) -> Atmosphere:
    tau_signal, tau_image = opacity.tau(pwv, more["dry"].value)
    return Atmosphere(
        pwv=pwv,
        tau_signal=tau_signal,
        tau_image=tau_image,
        table=table.name,
        scan_flags=flags,
        warnings=tuple(warnings),
        **more,
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _median(fits: list[PwvFit], joint: float) -> float:
    good = [f.pwv for f in fits if f.constrained]
    return median(np.array(good)) if good else joint


def _fallback(scan: Scan, settings: Settings) -> tuple[float, str]:
    """pwv_header (settings above the store, the store, settings below it), then pwv_default."""
    stored = scan.source.attrs.get("pwv_header")
    candidates = [settings.pwv_header, float(stored) if stored is not None and is_finite(stored) else None]
    if not settings.outranks_store("pwv_header"):
        candidates.reverse()
    for value in candidates:
        if value is not None and value > 0:
            return value, "header"
    return settings.pwv_default, "default"
