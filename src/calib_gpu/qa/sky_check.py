"""The sky that the fit saw, found again from L1: T'_sky of the references, observed and fitted.

T'_sky = S_H + T'_hot is the sky at the receiver input, both sidebands weighted with their gains. From the definitions
of T_sys (eq. 9) and T_rec (eq. 8) it follows exactly, T'_sky = T_sys t_s g_s eta_f - T_rec,DSB, so that S_H,obs - S_H,fit
of eqs. (12, 13) is T'_sky,obs - T'_sky,fit. L1 does not hold the airmass of the OFFs: the model is taken at that of the ON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError
from calib_gpu.physics import loads as physics
from calib_gpu.physics.atmosphere import transmission
from calib_gpu.physics.loads import SidebandGains
from calib_gpu.physics.radiation import rayleigh_jeans_temperature
from calib_gpu.qa.products import ScanProducts
from calib_gpu.records import Floats

NOT_FITTED: Final = {"none": "no atmosphere was used", "fixed": "the water vapour was given, not fitted"}


@dataclass(frozen=True)
class SkyTemperatures:
    """J of atmosphere, spillover and background in one band, K ``[C]``."""

    atm: Floats
    spill: Floats
    background: Floats


@dataclass(frozen=True)
class Sky:
    """What observed and fitted sky are made of, for all pixels; ``model`` is None, with ``why``, where L1 lacks a part."""

    products: ScanProducts
    gains: SidebandGains
    eta_f: float
    model: tuple[SkyTemperatures, SkyTemperatures] | None
    why: str

    def transmission(self, band: str, on: int) -> Floats:
        """Transmission of ``signal`` or ``image`` band at the airmass of an ON subscan ``[C]``; NaN where not looked up."""
        tau = self.products.whole(f"tau_{band}")
        x = float(self.products.whole("airmass")[on])
        return transmission(tau, x) if tau.any() else np.ones(tau.size)  # no atmosphere: no airmass is needed

    def observed(self, r: int, a: int, on: int, t_sys: Floats, t_rec: Floats) -> Floats:
        """T'_sky of the reference of an ON ``[C]``, K, from its ``t_sys`` and the pixel's ``t_rec`` (as in L1)."""
        g_s, g_i = self.gains.pixel(r, a)
        if self.products.attrs.get("trec_convention") == "callen_welton":
            signal, image = (self.products.whole(f"frequency_{band}") for band in ("signal", "image"))
            t_rec = t_rec + physics.callen_welton_shift(signal, image, g_s, g_i)
        return np.asarray(t_sys * self.transmission("signal", on) * g_s * self.eta_f - t_rec)

    def fitted(self, r: int, a: int, on: int) -> Floats:
        """T'_sky of the model at the fitted water vapour ``[C]``, K; NaN without a model."""
        if self.model is None:
            return np.full(self.products.shape[0], np.nan)
        total = np.zeros(self.products.shape[0])
        for band, model, g in zip(("signal", "image"), self.model, self.gains.pixel(r, a), strict=True):
            if not np.any(g):
                continue
            t = self.transmission(band, on)
            through = model.atm * (1.0 - t) + model.background * t
            total += g * (self.eta_f * through + (1.0 - self.eta_f) * model.spill)
        return total


def sky_of(products: ScanProducts) -> Sky | str:
    """The sky of a scan, or why it cannot be found from its L1."""
    used = products.attrs.get("receiver", {})
    try:
        gains, eta_f = _gains(used), float(_value(used, "eta_f"))
    except (LookupError, TypeError, ValueError, ConfigError):
        return "not stored: the sideband gains or eta_f are not in the attributes (gains per channel are not)"
    if not all(products.has(name) for name in ("tau_signal", "tau_image", "airmass", "frequency_image")):
        return "not stored: opacities, airmass or image frequencies are absent"
    model, why = _model(products, used)
    return Sky(products, gains, eta_f, model, why)


def sidebands(products: ScanProducts) -> str:
    """``SSB`` where nothing is received from the image band, else ``DSB``: which T_rec it is."""
    try:
        return "SSB" if _gains(products.attrs.get("receiver", {})).single_sideband else "DSB"
    except (LookupError, TypeError, ValueError, ConfigError):
        return "DSB"


def _value(used: Mapping[str, Any], name: str) -> Any:
    return used[name]["value"]


def _gains(used: Mapping[str, Any]) -> SidebandGains:
    if "g_sig" in used:
        return physics.gains_from_signal(np.asarray(_value(used, "g_sig"), dtype=np.float64))
    if "image_ratio" in used:
        return physics.gains_from_image_ratio(float(_value(used, "image_ratio")))
    return physics.gains_from_weights(float(_value(used, "gain_sig")), float(_value(used, "gain_img")))


def _model(
    products: ScanProducts, used: Mapping[str, Any]
) -> tuple[tuple[SkyTemperatures, SkyTemperatures] | None, str]:
    status = str(products.attrs.get("pwv_status"))
    if status in NOT_FITTED:
        return None, NOT_FITTED[status]
    try:
        t_atm = [_t_atm(products, used, band) for band in ("signal", "image")]
        t_spill = float(_value(used, "t_spill")) if "t_spill" in used else 0.0
    except (LookupError, TypeError, ValueError):
        return None, "not stored: the temperature of the atmosphere"
    j, t_bg = rayleigh_jeans_temperature, products.setting("t_bg", 0.0)
    nu = [products.whole(f"frequency_{band}") for band in ("signal", "image")]
    signal, image = (SkyTemperatures(j(f, t), j(f, t_spill), j(f, t_bg)) for f, t in zip(nu, t_atm, strict=True))
    return (signal, image), ""


def _t_atm(products: ScanProducts, used: Mapping[str, Any], band: str) -> Floats | float:
    """Temperature of the atmosphere, K: a number, or ``[C]`` of a layered one."""
    name = f"t_atm_{band}"
    return products.whole(name) if products.has(name) else float(_value(used, "t_atm"))


def reference_subscans(products: ScanProducts, at_most: int) -> list[int]:
    """ON subscans that have different references, at most so many, spread evenly from the first to the last."""
    n_on = products.shape[4]
    if not (products.has("ref_index") and products.has("ref_weight")):
        return [0] if n_on else []
    pairs: NDArray[Any] = np.concatenate([products.whole("ref_index"), products.whole("ref_weight")], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    first = np.sort(first)
    keep = np.unique(np.linspace(0, first.size - 1, min(at_most, first.size)).round().astype(int))
    return [int(first[k]) for k in keep]
