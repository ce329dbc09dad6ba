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
from calib_gpu.physics.atmosphere import PASCAL_PER_TORR, Opacity, SkyTemperatures, airmass, bin_starts
from calib_gpu.physics.pwv import PwvFit
from calib_gpu.records import Atmosphere, OffSpectra, Receiver, Scan
from calib_gpu.schema import ScanFlag
from calib_gpu.settings import Settings
from calib_gpu.stages.resolve import ResolvedLoads
from calib_gpu.stages.sky_fit import SkyFit
from calib_gpu.store.l0_group import is_finite


def site_value(scan: Scan, name: str) -> float | None:
    """NaN-mean over all subscans of a site array (pamb, tamb, t_atm, t_spill); None where the array is absent."""
    values = scan.source.arrays.get(name)
    if values is None:
        return None
    good = values[np.isfinite(values)]
    mean = float(good.mean()) if good.size else float("nan")
    if not mean > 0.0:
        raise MissingValue("no usable value", array=f"source/{name}", value=mean, rule="a mean > 0 over the subscans")
    return mean


def _needed(scan: Scan, name: str, why: str, instead: str) -> float:
    value = site_value(scan, name)
    if value is None:
        raise MissingValue(f"needed {why}", array=f"source/{name}", fix=f"{instead}, or use --atmosphere none")
    return value


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
        raise _no_t_eff()


def _no_t_eff() -> ConfigError:
    return ConfigError(
        "the opacity table has no t_eff", array="t_atm", value="table", fix="use t_atm=factor, or a table with t_eff"
    )


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
        torr = _needed(scan, "pamb", "for an opacity table of several layers", "use a table of one layer")
    pressure = None if torr is None else torr * PASCAL_PER_TORR
    opacity = table.opacity(scan.topocentric_signal, image, pressure)
    flags = int(ScanFlag.ATM_CLAMPED) if opacity.clamped else 0
    warnings = []
    if table.synthetic and scan.source.attrs.get("simulated") is not True:
        warnings.append(f"opacity table {table.name} is synthetic: good for simulations, not for science")
    elevation = {s.index: s.elevation for s in scan.source.subscans}
    x = airmass([elevation[i] for i in offs.index], settings.airmass, settings.shell_height_km)
    if settings.pwv != "fit":
        return _at(
            opacity,
            float(settings.pwv),
            {"pwv_error": 0.0, "status": "fixed", "source": "fixed"},
            table,
            flags,
            warnings,
        )
    temperatures, used, defaulted = _sky_temperatures(scan, opacity, settings, rx.eta_f)
    if torr is not None:
        used["pamb"] = {"value": torr, "from": "store"}
    flags |= int(ScanFlag.T_ATM_DEFAULTED) if defaulted else 0
    if settings.fit_bins:
        n_channel = scan.signal.size
        opacity = replace(opacity, bins=bin_starts(n_channel, min(settings.fit_bins, n_channel)))
    fit = SkyFit(scan, offs, resolved, rx, temperatures, opacity, x, settings, backend)
    joint, each_off, pixel_fits = fit.run()
    pwv, source = (joint.pwv, "fit") if joint.constrained else _fallback(scan, settings)
    if joint.constrained and settings.pwv_scope != "scan":
        pwv = _median(pixel_fits.ravel().tolist() if settings.pwv_scope == "per_pixel" else each_off, joint.pwv)
    if not joint.constrained:
        flags |= ScanFlag.PWV_FALLBACK
        warnings.append(f"the sky signal does not constrain the water vapour: {pwv:g} mm from {source} is used")
    if joint.status in ("at_lower_bound", "at_upper_bound"):
        flags |= ScanFlag.PWV_AT_BOUND
        warnings.append(
            f"the water vapour fit ends at its bound, {joint.pwv:g} mm: check eta_f, t_atm and the load temperatures"
        )
    chi2 = joint.chi2 / (joint.n - 1) if joint.n > 1 else None
    more = {
        "pwv_error": _number(joint.error), "status": joint.status, "source": source, "rms_k": _number(joint.rms),
        "chi2_reduced": chi2, "sky": temperatures, "used": used, "off_pwv": tuple(_number(f.pwv) for f in each_off),
        "pixel_pwv": np.vectorize(lambda f: f.pwv, otypes=[float])(pixel_fits) if pixel_fits.size else None,
    }  # fmt: skip
    return _at(opacity, pwv, more, table, int(flags), warnings)


def _at(
    opacity: Opacity, pwv: float, more: dict[str, Any], table: OpacityTable, flags: int, warnings: list[str]
) -> Atmosphere:
    tau_signal, tau_image = opacity.tau(pwv)
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
    return float(np.median(good)) if good else joint


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


def _sky_temperatures(
    scan: Scan, opacity: Opacity, settings: Settings, eta_f: float
) -> tuple[SkyTemperatures, dict[str, Any], bool]:
    """J of atmosphere, spillover and background; what was used, from where; whether T_atm is ambient by default."""
    t_atm, atm_used, defaulted = _t_atm(scan, opacity, settings)
    stored = None if settings.outranks_store("t_spill") else site_value(scan, "t_spill")
    origin, t_spill = "store", stored
    if t_spill is None:
        origin = settings.layer("t_spill")
        if not isinstance(settings.t_spill, str):
            t_spill = float(settings.t_spill)
        elif eta_f < 1.0:
            t_spill = _needed(scan, "tamb", "for the spillover temperature", "set t_spill")
    used = {"t_atm": atm_used}
    if t_spill is not None:
        used["t_spill"] = {"value": t_spill, "from": origin}
    # with eta_f = 1 nothing is spilt: the value does not enter
    return SkyTemperatures.of(scan.signal, scan.image, t_atm, t_spill or 0.0, settings.t_bg), used, defaulted


def _t_atm(scan: Scan, opacity: Opacity, settings: Settings) -> tuple[tuple[Any, Any], dict[str, Any], bool]:
    """Physical temperature of the atmosphere per band, K; value and origin for L1; whether it is ambient by default."""
    stored = None if settings.outranks_store("t_atm") else site_value(scan, "t_atm")
    if stored is not None:
        return (stored, stored), {"value": stored, "from": "store"}, False
    origin = settings.layer("t_atm")
    if settings.t_atm == "table":
        if opacity.t_eff_signal is None:
            raise _no_t_eff()
        image: NDArray[np.float64] | float = 1.0 if opacity.t_eff_image is None else opacity.t_eff_image
        return (opacity.t_eff_signal, image), {"value": "table", "from": origin}, False
    if isinstance(settings.t_atm, str):
        value = _needed(scan, "tamb", f"for t_atm={settings.t_atm}", "set t_atm to a value")
        value *= settings.t_atm_factor if settings.t_atm == "factor" else 1.0
    else:
        value = float(settings.t_atm)
    return (value, value), {"value": value, "from": origin}, settings.t_atm == "ambient"
