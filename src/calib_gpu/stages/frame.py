"""What L0 tells of source, site and frequency frame; and the velocity of the frame, given or computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib_gpu import schema
from calib_gpu.errors import BadType, MissingValue
from calib_gpu.physics.frequency import SPEED_OF_LIGHT, Frame
from calib_gpu.physics.observer import lsr_velocity, unit_vector
from calib_gpu.records import CountGroup
from calib_gpu.settings import Settings
from calib_gpu.store.l0_group import MICROSECONDS_PER_DAY, is_finite

Site = tuple[float, float, float]


def told_attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of :data:`schema.TOLD` that L0 has, checked; those of a position come together.

    Raises
    ------
    BadType, MissingValue
        A value breaks its rule; one half of a position is missing.
    """
    told = {row.name: _checked(row, attrs[row.name]) for row in schema.TOLD if attrs.get(row.name) is not None}
    for one, other in (("source_lon_deg", "source_lat_deg"), ("site_lon_deg", "site_lat_deg")):
        for has, lacks in ((one, other), (other, one)):
            if has in told and lacks not in told:
                raise MissingValue("half of a position", array=lacks, rule=f"{one} with {other}")
    if "source_lon_deg" in told:
        told.setdefault("source_system", "icrs")
    return told


def _checked(row: schema.Attribute, value: Any) -> Any:
    if row.limits is None:
        if isinstance(value, list | dict | bool):
            raise BadType("attribute not understood", array=row.name, value=value, rule="a text")
        text = str(value)
        if row.choices and text.lower() not in row.choices:
            raise BadType("attribute not understood", array=row.name, value=value, rule=" or ".join(row.choices))
        return text.lower() if row.choices else text
    low, high = row.limits
    if not (is_finite(value) and low <= value <= high):
        rule = f"a number from {low:g} to {high:g} {row.unit}"
        raise BadType("attribute not understood", array=row.name, value=value, rule=rule)
    return float(value)


def site_of(told: Mapping[str, Any], settings: Settings) -> tuple[Site, str] | None:
    """Longitude, latitude (deg) and height (m) of the telescope, and the layer they are from; whole from one layer."""
    own = None if settings.site_lon is None or settings.site_lat is None else (settings.site_lon, settings.site_lat)
    if "site_lon_deg" in told and not (own is not None and settings.outranks_store("site_lon")):
        return (told["site_lon_deg"], told["site_lat_deg"], told.get("site_height_m", 0.0)), "store"
    return None if own is None else ((*own, settings.site_height), settings.layer("site_lon"))


def frequency_frame(source: CountGroup, told: Mapping[str, Any], settings: Settings) -> Frame:
    """The frame of the frequencies, and for the LSR its velocity at the mean time of the ONs.

    Raises
    ------
    BadType
        There is no such frame.
    MissingValue, ConfigError
        LSR frequencies with an atmosphere, and the velocity is neither given nor can be computed.
    """
    given = source.attrs.get("frame_velocity_m_s")
    if given is not None and not (is_finite(given) and abs(given) < SPEED_OF_LIGHT):
        rule = "radial velocity of the frame, m/s, below that of light"
        raise BadType("attribute not understood", array="frame_velocity_m_s", value=given, rule=rule)
    name = source.attrs.get("frequency_frame")
    name = name.lower() if isinstance(name, str) else name
    if name in (None, "topocentric"):
        return Frame(name)
    if name != "lsrk":
        raise BadType("frame not understood", array="frequency_frame", value=name, rule="topocentric or lsrk")
    if given is not None:
        return Frame(name, float(given), "store")
    site = site_of(told, settings)
    if settings.atmosphere == "none":
        return Frame(name)  # nothing is looked up at topocentric frequencies
    if site is None or "source_lon_deg" not in told:
        raise MissingValue(
            "needed to shift LSR frequencies", array="frame_velocity_m_s",
            rule="radial velocity of the frame, m/s; or source_lon_deg and source_lat_deg, with the site",
            fix="a site is given by site_lon_deg and site_lat_deg, by a profile, or by --set site_lon and site_lat",
        )  # fmt: skip
    mjd = source.absolute_us(source.of_kind("ON") or source.subscans) / MICROSECONDS_PER_DAY
    direction = unit_vector(told["source_lon_deg"], told["source_lat_deg"], told["source_system"])
    # rounded: L1's bytes must not depend on the last digits of a library
    return Frame(name, round(lsr_velocity(mjd, direction, site[0]), 1), f"computed, site from {site[1]}")
