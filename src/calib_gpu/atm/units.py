"""Quantities with units as people write them: 2MHz, 530 hPa, 8 um."""

from __future__ import annotations

import re
from typing import Final

from calib_gpu.errors import ConfigError
from calib_gpu.physics.atmosphere import PASCAL_PER_TORR

FREQUENCY: Final = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "THz": 1e12}
"""Factors to Hz."""

PRESSURE: Final = {"Pa": 1.0, "hPa": 100.0, "mbar": 100.0, "kPa": 1e3, "Torr": PASCAL_PER_TORR}
"""Factors to Pa."""

WATER: Final = {"mm": 1.0, "um": 1e-3, "cm": 10.0}
"""Factors to mm of precipitable water vapour."""

_NUMBER: Final = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ]*)\s*")


def factor(unit: str, units: dict[str, float], name: str) -> float:
    """Factor of a unit, whatever its case where that is clear."""
    unit = unit.replace("µ", "u").replace("μ", "u")
    found = [known for known in units if known == unit] or [k for k in units if k.lower() == unit.lower()]
    if len(found) != 1:
        raise ConfigError("no such unit", array=name, value=unit, rule=" | ".join(units))
    return units[found[0]]


def quantity(text: str, units: dict[str, float], default: str, name: str) -> float:
    """A number with a unit of ``units`` (``default`` where none is given), in the base unit; it must be > 0."""
    match = _NUMBER.fullmatch(text)
    value = float(match[1]) * factor(match[2] or default, units, name) if match else 0.0
    if not 0.0 < value < float("inf"):
        raise ConfigError(
            "not a quantity",
            array=name,
            value=text,
            rule=f"a number > 0 with a unit: {' | '.join(units)}; else {default}",
        )
    return value


def quantities(text: str, units: dict[str, float], default: str, name: str) -> tuple[float, ...]:
    """Numbers separated by commas; a unit behind the last one holds for those without: ``0.2,0.5,1mm``."""
    parts = text.split(",")
    match = _NUMBER.fullmatch(parts[-1])
    last = match[2] if match and match[2] else default
    return tuple(quantity(part, units, last, name) for part in parts)


def water_text(w: float) -> str:
    """A PWV in mm, in um where that is small."""
    return f"{w * 1000:.3g} um" if w < 0.1 else f"{w:.3g} mm"
