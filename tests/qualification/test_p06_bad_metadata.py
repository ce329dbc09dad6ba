"""P6: bad metadata is named.

Every attribute and every small array that a scan is made from is taken away, emptied, given another type, NaN, Inf and
numbers that cannot be. The scan fails with an error that names it, the value and the rule, or, where the value is allowed, is
calibrated; :data:`ALLOWED` lists all that is.
"""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu import schema
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.small import write_array
from calib_gpu.testing.tamper import edit, inside, sound_store
from many_scans import Damage, run_damaged

# --- attributes -------------------------------------------------------------------------------------------------------

ABSENT = object()
VALUES: dict[str, Any] = {
    "absent": ABSENT, "null": None, "a text": "abc", "true": True, "NaN": math.nan, "Inf": math.inf, "negative": -1.5,
    "zero": 0, "1e308": 1e308, "empty": "", "list": [1.0, 2.0],
}  # fmt: skip
TEXTS = ("telescope", "instrument", "project", "offset_frame", "source_name", "tuning_id")
OPTIONAL = {"absent", "null"}
ANY_TEXT = {"absent", "null", "a text", "negative", "zero", "1e308", "empty"}
NUMBERS_ELSEWHERE = {"source_lon_deg", "source_lat_deg", "site_lon_deg", "site_lat_deg"}
ATTRIBUTES_ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(schema.READ_ATTRIBUTES, OPTIONAL), **dict.fromkeys(TEXTS, ANY_TEXT),
    "fill": {*OPTIONAL, "zero"},
    "adc_saturation": {*OPTIONAL, "1e308"},
    "time_ref": {"absent"}, "exptime_kind": {"absent"},
    "ref_channel_base": {"absent", "negative", "zero"},
    "freq_off_applied": {"absent", "true"},
    "frame_velocity_m_s": {*OPTIONAL, "negative", "zero"},
    "pwv_header": {*OPTIONAL, "negative", "zero", "1e308"},  # used where > 0 (rulings, 29); 1e308 only where no fit is
    "simulated": set(VALUES) - {"NaN", "Inf"},  # anything but true is not simulated
    "site_height_m": {*OPTIONAL, "negative", "zero"},
}  # fmt: skip


def set_attribute(scan: Path, name: str, value: Any) -> None:
    def change(document: dict[str, Any]) -> None:
        document["attributes"].pop(name, None)
        if value is not ABSENT:
            document["attributes"][name] = value

    edit((scan / "source" / "data_5d" if name == "fill" else scan) / "zarr.json", change)


def test_attributes(figure: Any) -> None:
    cases = {
        f"{name}: {what}": partial(set_attribute, name=name, value=value)
        for name in schema.READ_ATTRIBUTES for what, value in VALUES.items()
    }  # fmt: skip
    found, wrong = run_damaged(cases), []
    for case, line in found.items():
        name, what = case.split(": ")
        allowed = what in ATTRIBUTES_ALLOWED[name]
        half = name in NUMBERS_ELSEWHERE and what in ("negative", "zero")  # half of a position: the other one is named
        named = name in line.message or (half and "position" in line.message)
        # a number so large that only the frequencies made with it show it
        named |= case == "ref_channel_base: 1e308" and "signal_freq" in line.message
        if (line.status == "ok") is not allowed or not (allowed or (named and shows(line.message, VALUES[what]))):
            wrong.append(f"{case}: {line.status} {line.error} {line.message}")
    bad = sum(line.status == "failed" for line in found.values())
    figure("P6", "bad attributes named with value and rule", f"{bad} of {bad + len(wrong)}", "100 %")
    assert wrong == []


def shows(message: str, value: Any) -> bool:
    """True if the message has a rule, and the value where it can be printed."""
    return "rule:" in message or "is not a number of JSON" in message


# --- arrays -----------------------------------------------------------------------------------------------------------

Change = Any
REQUIRED = {"sobsmode", "mjd", "signal_freq", "image_freq", "freq_res", "ref_channel"}
NEEDED = {"source": REQUIRED | {"elevation", "pamb", "tamb"}, "calibration": REQUIRED | {"thot", "tcold"}}
OFFSETS = ("azimuth", "otf_lon", "otf_lat", "pixel_offset_lon", "pixel_offset_lat", "freq_off")
NOT_LOOKED_AT = {"absent", "NaN", "negative", "zero"}
ALLOWED: dict[str, set[str]] = {
    **{f"source/{name}": NOT_LOOKED_AT for name in OFFSETS},
    "source/exptime": {"absent", "NaN"},
    "source/freq_res": {"negative"},
    "source/ref_channel": {"negative", "zero"},
    "source/frontend_backends": {"absent"},
    "source/gain_img": {"zero"},  # single sideband
    "source/eta_f": {"absent"},
    "source/lloadsn": {"absent", "negative", "zero"},
    # the loads of the scan itself are used whatever their frequencies, weather and receiver
    **{f"calibration/{name}": NOT_LOOKED_AT for name in (*OFFSETS, "elevation", "pamb", "tamb", "gain_sig", "gain_img", "eta_f")},
    **{f"calibration/{name}": {"negative", "zero"} for name in ("signal_freq", "image_freq", "freq_res", "ref_channel")},
    "calibration/exptime": {"absent", "NaN"},
    "calibration/frontend_backends": {"absent"},
}  # fmt: skip


def filled(value: float) -> Change:
    return lambda old: np.full(old.shape, value)


def other_type(old: NDArray[Any]) -> NDArray[Any]:
    return np.zeros(old.shape) if old.dtype == object else np.full(old.shape, "abc", object)


CHANGES: dict[str, Change] = {
    "absent": None,
    "null": "null",
    "wrong type": other_type,
    "NaN": filled(math.nan),
    "Inf": filled(math.inf),
    "negative": filled(-1.0),
    "zero": filled(0.0),
    "1e308": filled(1e308),
    "empty": lambda old: old[:0] if old.ndim else np.zeros(0),
    "list": lambda old: np.stack([old] * 7, -1),
}
OF_NUMBERS = ("NaN", "Inf", "negative", "zero", "1e308")


def change_array(scan: Path, array: str, change: Change) -> None:
    folder = scan / array
    document = json.loads((folder / "zarr.json").read_bytes())
    if change == "null":
        edit(folder / "zarr.json", lambda doc: doc.update(data_type=None))
        return
    old = ChunkedArray(folder, array, absent_is_fill=True).values()
    shutil.rmtree(folder)
    if change is not None:
        new = change(old)
        axes = (*document["dimension_names"], *("x",) * 9)[: new.ndim]
        write_array(folder, new, axes, document["attributes"], Compressor())


def arrays(folder: Path) -> dict[str, bool]:
    """The small arrays of the scan, and whether they hold texts."""
    sound_store(folder / "example.zarr")
    scan = inside()(folder / "example.zarr")
    rows = {"source": schema.L0_SOURCE, "calibration": schema.L0_CALIBRATION}
    return {
        f"{group}/{row.name}": row.dtype == "str"
        for group, table in rows.items() for row in table
        if row.name != "data_5d" and (scan / group / row.name).is_dir()
    }  # fmt: skip


def test_arrays(tmp_path: Path, figure: Any) -> None:
    texts = arrays(tmp_path)
    assert {f"{group}/{name}" for group, names in NEEDED.items() for name in names} <= set(texts)
    cases: dict[str, Damage] = {
        f"{array}: {what}": partial(change_array, array=array, change=change)
        for array, is_text in texts.items() for what, change in CHANGES.items()
        if not (is_text and what in OF_NUMBERS)
    }  # fmt: skip
    found, wrong = run_damaged(cases), []
    for case, line in found.items():
        array, what = case.split(": ")
        allowed, short = what in ALLOWED.get(array, set()), array.split("/")[1]
        said = short in line.message or (short in ("gain_sig", "gain_img") and "gain_" in line.message)
        ruled = "rule:" in line.message or "metadata not understood" in line.message or "needed for" in line.message
        if (line.status == "ok") is not allowed or not (allowed or (said and ruled)):
            wrong.append(f"{case}: {line.status} {line.error} {line.message} {line.warnings}")
    bad = sum(line.status == "failed" for line in found.values())
    figure("P6", "bad arrays named with value and rule", f"{bad} of {bad + len(wrong)}", "100 %")
    assert wrong == []
