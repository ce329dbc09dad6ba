"""Values of the site that L0 gives for each subscan: pressure, temperatures."""

from __future__ import annotations

import numpy as np

from calib_gpu.errors import MissingValue
from calib_gpu.records import Scan


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


def needed_value(scan: Scan, name: str, why: str, instead: str) -> float:
    """The same; :class:`MissingValue` tells why it is needed and what to do."""
    value = site_value(scan, name)
    if value is None:
        raise MissingValue(f"needed {why}", array=f"source/{name}", fix=f"{instead}, or use --atmosphere none")
    return value
