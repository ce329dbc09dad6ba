"""Stage 6, write: the scan-level arrays and attributes of L1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu._version import __version__
from calib_gpu.modes import Mode
from calib_gpu.records import Atmosphere, Floats, Loads, OffSpectra, Receiver, Scan
from calib_gpu.schema import ScanFlag
from calib_gpu.settings import Settings
from calib_gpu.stages.calibrate import TileTotals
from calib_gpu.stages.frame import site_of
from calib_gpu.stages.load import dump_time
from calib_gpu.stages.prepare import Factors, off_airmass
from calib_gpu.stages.resolve import ResolvedLoads, written_trec
from calib_gpu.store.l1 import ScanWriter
from calib_gpu.store.pixel_arrays import release

TA_SCALE = "ssb_line"
T_SYS_CONVENTION = "ssb_ta_star"


def write_loads(writer: ScanWriter, scan: Scan, resolved: ResolvedLoads, rx: Receiver, settings: Settings) -> None:
    """The load products: gamma, gain, trec, bad_channels ``[C, R, A]``."""
    cal = resolved.calibration

    def finite(values: Floats) -> Floats:
        out = np.where(np.isfinite(values), values, np.nan)
        release(values)
        return out

    convention = {"trec_kind": "dsb", "trec_convention": settings.trec_convention}
    writer.write_pixels("gamma", lambda r, a: finite(cal.gamma[:, r, a]))
    writer.write_pixels("gain", lambda r, a: finite(cal.gain[:, r, a]))
    writer.write_pixels(
        "trec", lambda r, a: finite(written_trec(cal, scan, rx, settings.trec_convention, r, a)), convention
    )
    writer.write_pixels("bad_channels", lambda r, a: cal.bad[:, r, a])
    release(cal.trec)


def exposures(factors: Factors, offs: OffSpectra, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Integration time of an ON dump and of the reference ``[S_on]``, s."""
    source = factors.scan.source
    on = np.array([
        dump_time(source, source.subscans[int(index)], int(np.count_nonzero(present[k])))
        for k, index in enumerate(factors.pairing.on)
    ])  # fmt: skip
    ref = np.empty(len(on))
    for k, (slots, weights) in enumerate(zip(factors.slots, factors.pairing.weight, strict=True)):
        ref[k] = 1.0 / sum(w * w / offs.exposure[slot] for slot, w in zip(slots, weights, strict=True) if w > 0.0)
    return on, ref


def write_scan_arrays(
    writer: ScanWriter, factors: Factors, atmosphere: Atmosphere, settings: Settings, exptime_on: Floats, exptime_ref: Floats
) -> None:  # fmt: skip
    """Opacities, frequencies, pairing and coordinates."""
    scan, pairing = factors.scan, factors.pairing
    source = scan.source
    on = [source.subscans[int(i)] for i in pairing.on]
    writer.write("tau_signal", atmosphere.tau_signal, ("C",))
    writer.write("tau_image", atmosphere.tau_image, ("C",))
    if atmosphere.t_eff is not None:
        for name, values in zip(("t_atm_signal", "t_atm_image"), atmosphere.t_eff, strict=True):
            writer.write(name, values, ("C",))
    writer.write("frequency_signal", scan.signal, ("C",))
    writer.write("frequency_image", scan.image, ("C",))
    if atmosphere.pixel_pwv is not None:
        writer.write("pwv", atmosphere.pixel_pwv, ("R", "A"))
    subscan: dict[str, Any] = {
        "airmass": factors.airmass, "elevation": [s.elevation for s in on], "mjd": [s.mjd for s in on],
        "exptime_on": exptime_on, "exptime_ref": exptime_ref, "on_index": pairing.on,
    }  # fmt: skip
    for name, values in subscan.items():
        writer.write(name, np.asarray(values), ("S",))
    writer.write("ref_index", pairing.ref, ("S", "ref"))
    writer.write("ref_weight", pairing.weight, ("S", "ref"))
    writer.write("off_index", np.array(factors.offs.index, np.int32), ("off",))
    writer.write("airmass_off", off_airmass(scan, factors.offs, atmosphere, settings), ("off",))
    _write_coordinates(writer, source.arrays, source.shape, pairing.on)


def _write_coordinates(
    writer: ScanWriter, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int, int, int, int], on: NDArray[np.int32]
) -> None:
    """Offsets and names of the ON subscans; what L0 lacks, L1 lacks."""
    _, d, r, a, s = shape
    for name in ("otf_lon", "otf_lat"):
        if name in arrays:
            writer.write(name, np.broadcast_to(arrays[name], (d, s))[:, on], ("D", "S"))
    for name in ("pixel_offset_lon", "pixel_offset_lat"):
        if name in arrays:
            values = arrays[name] if arrays[name].ndim == 3 else arrays[name][..., None]
            writer.write(name, np.broadcast_to(values, (r, a, s))[..., on], ("R", "A", "S"))
    writer.write("sobsmode", np.broadcast_to(arrays["sobsmode"], (s,))[on], ("S",))
    names = arrays.get("frontend_backends")
    if names is not None:
        if names.ndim == 2:
            writer.write("frontend_backends", names, ("R", "A"))
        else:
            writer.write("frontend_backends", np.broadcast_to(names, (s,))[on], ("S",))


def told_attributes_of(scan: Scan, settings: Settings) -> dict[str, Any]:
    """What L0 (and for the site a setting) tells of source, site and frequencies; what is not known is not there."""
    out = dict(scan.told)
    site = site_of(scan.told, settings)
    if site is not None:
        out |= dict(zip(("site_lon_deg", "site_lat_deg", "site_height_m"), site[0], strict=True))
    frame = {"frequency_frame": scan.frame.name, "frame_velocity_m_s": scan.frame.velocity}
    return out | {name: value for name, value in frame.items() if value is not None}


def scan_attributes(
    scan: Scan, mode: Mode, loads: Loads, rx: Receiver, atmosphere: Atmosphere, settings: Settings,
    zero: Mapping[str, Any], qa: Mapping[str, Any], scan_flags: int, inputs: Mapping[str, Any], totals: TileTotals,
) -> dict[str, Any]:  # fmt: skip
    """Attributes of the scan group: no clock, host or timing, so that the same input and settings give the same bytes."""
    attrs = scan.source.attrs
    used = {
        name: {"value": value, "from": rx.origin.get(name, rx.origin["gains"])} for name, value in rx.values.items()
    }
    used |= atmosphere.used
    used["zero"] = dict(zero)
    if scan.frame.velocity is not None:
        used["frame_velocity_m_s"] = {"value": scan.frame.velocity, "from": scan.frame.origin}
    if scan.source.rule.saturation is not None:
        from_store = "adc_saturation" in attrs and not settings.outranks_store("adc_saturation")
        layer = "store" if from_store else settings.layer("adc_saturation")
        used["adc_saturation"] = {"value": scan.source.rule.saturation, "from": layer}
    return {
        "complete": True,
        "scan_number": scan.id.number,
        "source_name": str(attrs["source_name"]) if "source_name" in attrs else None,
        **told_attributes_of(scan, settings),
        "time_ref": attrs.get("time_ref", "mid"),
        "obs_mode": mode.name,
        "ta_scale": TA_SCALE,
        "transmission_corrected": atmosphere.status != "none",
        "t_sys_convention": T_SYS_CONVENTION,
        "trec_convention": settings.trec_convention,
        "pwv_mm": atmosphere.pwv,
        "pwv_err_mm": atmosphere.pwv_error,
        "pwv_status": atmosphere.status,
        "pwv_source": atmosphere.source,
        "dry_scale": atmosphere.dry.value,
        "dry_scale_err": atmosphere.dry.error,
        "dry_scale_status": atmosphere.dry.status,
        "dry_scale_pwv_correlation": atmosphere.dry.correlation,
        "atm_table": atmosphere.table,
        "atm_clamped": bool(atmosphere.scan_flags & ScanFlag.ATM_CLAMPED),
        "airmass_mode": settings.airmass_mode,
        "load_scans": [s.scan.number for s in loads.sets],
        "t_hot_k": [s.t_hot for s in loads.sets],
        "t_cold_k": [s.t_cold for s in loads.sets],
        "scan_flags": int(scan_flags),
        "flag_counts": totals.by_flag(),
        "qa": dict(qa),
        "receiver": used,
        "settings": json.dumps(settings.numeric(), sort_keys=True),
        "settings_from": {
            name: settings.layer(name) for name in settings.numeric() if settings.layer(name) != "default"
        },
        "settings_digest": settings.digest(),
        "engine_version": __version__,
        "inputs": dict(inputs),
    }
