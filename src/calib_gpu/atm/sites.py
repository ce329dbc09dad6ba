"""Atmospheric profiles: temperature, water and ozone over pressure, one TOML file a site."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError

Floats = NDArray[np.float64]

KEYS: Final = ("title", "altitude_m", "pressure_hpa", "pwv_fit_mm", "fixed_water_above_hpa", "origin", "profile")


SHIFT_BELOW_HPA: Final = 100.0
"""Where the temperature is no longer that of the ground: about the tropopause."""


@dataclass(frozen=True)
class Site:
    """A profile and what is usual at the site.

    Attributes
    ----------
    name, title, origin
        Name (of the file), what it is, and where the numbers are from.
    altitude_m
        Height of the telescope.
    pressure_hpa
        Pressures of the layers of a table, if none are given.
    pwv_fit_mm
        The two PWVs between which opacities are taken as linear, if none are given.
    fixed_water_above_hpa
        Water at this pressure and above it is not scaled with the PWV; 0: all is scaled.
    profile
        ``[N, 4]`` from the top down: pressure [hPa], temperature [K], water and ozone [ppm by volume].
    """

    name: str
    title: str
    origin: str
    altitude_m: float
    pressure_hpa: tuple[float, ...]
    pwv_fit_mm: tuple[float, float]
    fixed_water_above_hpa: float
    profile: Floats

    def above(self, pressure_hpa: float, temperature: float | None = None) -> Floats:
        """The profile above a telescope at a pressure, its last row there ``[M, 4]``.

        Temperature is linear in ln p, water and ozone are linear in ln p in their logarithms. With ``temperature`` [K]
        at the telescope, that of the profile is shifted there, and above it ever less up to 100 hPa.
        """
        p = self.profile[:, 0]
        if not SHIFT_BELOW_HPA < pressure_hpa <= p[-1]:
            raise ConfigError(
                "pressure outside the profile", array=f"site {self.name}", value=f"{pressure_hpa:g} hPa",
                rule=f"{SHIFT_BELOW_HPA:g} to {p[-1]:g} hPa", fix="give another site, or a profile of your own",
            )  # fmt: skip
        kept = self.profile[p < pressure_hpa * 0.998]
        x, at = np.log(p), np.log(pressure_hpa)
        last = [pressure_hpa, np.interp(at, x, self.profile[:, 1])]
        last += [np.exp(np.interp(at, x, np.log(self.profile[:, k]))) for k in (2, 3)]
        rows = np.vstack([kept, last])
        if temperature is not None:
            share = np.log(rows[:, 0] / SHIFT_BELOW_HPA) / np.log(pressure_hpa / SHIFT_BELOW_HPA)
            rows[:, 1] += (temperature - last[1]) * np.clip(share, 0.0, 1.0)
        return rows


def shipped_sites() -> list[str]:
    """Names of the sites that come with the package."""
    folder = resources.files("calib_gpu.atm") / "sites"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def read_site(name: str) -> Site:
    """A site of the package, or one's own TOML file with the same keys.

    Raises
    ------
    ConfigError
        There is no such site, or the file breaks a rule.
    """
    if name in shipped_sites():
        document = tomllib.loads((resources.files("calib_gpu.atm") / "sites" / f"{name}.toml").read_text())
    elif name.endswith(".toml"):
        document = _read_file(Path(name))
    else:
        raise ConfigError(
            "no such site", array="--site", value=name, rule=" | ".join(shipped_sites()),
            fix="or give the path of a TOML file with a profile of your own",
        )  # fmt: skip
    return _site(Path(name).stem, document)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", array=str(path)) from None


def _site(name: str, document: dict[str, Any]) -> Site:
    if set(document) != set(KEYS):
        wrong = sorted(set(document) ^ set(KEYS))
        raise ConfigError("keys missing or unknown", array=f"site {name}", value=wrong, rule=", ".join(KEYS))
    try:
        profile = np.array(document["profile"], dtype=np.float64)
        fit = tuple(float(w) for w in document["pwv_fit_mm"])
        pressures = tuple(float(p) for p in document["pressure_hpa"])
        altitude, fixed = float(document["altitude_m"]), float(document["fixed_water_above_hpa"])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"not numbers: {error}", array=f"site {name}") from None
    if profile.ndim != 2 or profile.shape[1] != 4 or profile.shape[0] < 3 or not np.all(profile > 0.0):
        raise ConfigError(
            "not a profile",
            array=f"site {name}",
            rule="rows of pressure hPa, temperature K, water ppm, ozone ppm, all > 0",
        )
    if np.any(np.diff(profile[:, 0]) <= 0.0):
        raise ConfigError("pressures do not increase", array=f"site {name}", rule="from the top down")
    if len(fit) != 2 or not 0.0 < fit[0] < fit[1]:
        raise ConfigError("not two PWVs", array=f"site {name}/pwv_fit_mm", value=fit, rule="0 < first < second, mm")
    return Site(
        name, str(document["title"]), " ".join(str(document["origin"]).split()), altitude, pressures, (fit[0], fit[1]),
        fixed, profile,
    )  # fmt: skip
