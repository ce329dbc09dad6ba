"""Opacity tables on disk: a Zarr group, read and written (docs/formats.md, section 8)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.atm.table import OpacityTable
from calib_gpu.errors import ConfigError, Unreadable
from calib_gpu.store import disk
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.kinds import TABLE_FORMAT, described, kind_of
from calib_gpu.store.metadata import group_attrs, node_kind
from calib_gpu.store.small import write_array, write_group

ABOUT: Final = {
    "frequency_hz": (("frequency",), "Hz", "topocentric frequency"),
    "pressure_pa": (("layer",), "Pa", "pressure at the telescope"),
    "pwv_mm": (("pwv",), "mm", "precipitable water vapour of t_eff"),
    "airmass": (("airmass",), "1", "airmass of t_eff"),
    "b": (("layer", "frequency"), "Np/mm", "wet opacity at zenith per mm of water vapour"),
    "c": (("layer", "frequency"), "Np", "dry opacity at zenith"),
    "t_eff": (("layer", "pwv", "airmass", "frequency"), "K", "effective radiating temperature of the atmosphere"),
}
"""Axes, unit and meaning of every array."""


def read_table(path: str | os.PathLike[str]) -> OpacityTable:
    """Read a table: a Zarr group with ``frequency_hz[F]``, ``pressure_pa[L]``, ``b`` and ``c`` ``[L,F]``, and maybe ``t_eff``.

    Raises
    ------
    ConfigError
        It is no table, or breaks a rule of :class:`OpacityTable`.
    """
    folder = Path(path)
    try:
        if node_kind(folder) != "group" or kind_of(folder) not in ("", "table"):
            raise ConfigError(
                f"not an opacity table{described(folder)}",
                array=str(path),
                rule="a Zarr group with frequency_hz, pressure_pa, b, c",
                fix="give its path, or --atmosphere auto or none; text tables: calib-gpu atm convert",
            )

        def values(name: str) -> Any:
            return ChunkedArray(folder / name, name, absent_is_fill=False).values().astype(np.float64)

        for name in ("frequency_hz", "pressure_pa", "b", "c"):
            if node_kind(folder / name) != "array":
                raise ConfigError("array is missing", array=f"{path}/{name}")
        extra = {name: values(name) for name in ("t_eff", "pwv_mm", "airmass") if node_kind(folder / name) == "array"}
        t_eff, attrs = extra.get("t_eff"), group_attrs(folder)
        nodes = (
            {"pwv": extra["pwv_mm"], "airmass": extra["airmass"]}
            if t_eff is not None and t_eff.ndim == 4 and len(extra) == 3
            else {}
        )
        return OpacityTable(
            values("frequency_hz"), values("pressure_pa"), values("b"), values("c"), t_eff, folder.name,
            bool(attrs.get("synthetic", False)), attrs=attrs, **nodes,
        )  # fmt: skip
    except Unreadable as error:
        raise ConfigError(str(error)) from None


def write_table(path: Path, table: OpacityTable) -> None:
    """Write a table; it appears complete, by one rename.

    b, c and t_eff are float32, rounded to what matters (:func:`rounded`), and compressed with blosc.

    Raises
    ------
    OutputError
        The path exists, or cannot be written.
    """
    if path.exists():
        raise disk.not_empty(path)
    arrays: dict[str, NDArray[Any]] = {"frequency_hz": table.frequency, "pressure_pa": table.pressure}
    water = float(table.pwv[-1]) if table.pwv.size else 1.0
    arrays["b"], arrays["c"] = rounded(table.b, _OPACITY_STEP / water), rounded(table.c, _OPACITY_STEP)
    if table.t_eff is not None:
        arrays["t_eff"] = rounded(table.t_eff, _KELVIN_STEP)
        if table.t_eff.ndim == 4:
            arrays |= {"pwv_mm": table.pwv, "airmass": table.airmass}
    staged = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        _write_group(staged, arrays, {"format": TABLE_FORMAT, **table.attrs, "synthetic": table.synthetic})
        disk.make_durable(staged)
        if not disk.rename(staged, path):
            raise disk.not_empty(path)
    finally:
        disk.remove_tree(staged)


COMPRESSOR: Final = Compressor("blosc_zstd", 9)
_OPACITY_STEP: Final = 2.0**-15
_KELVIN_STEP: Final = 2.0**-5


def rounded(values: NDArray[np.float64], step: float) -> NDArray[np.float32]:
    """Multiples of ``step``, to the next lower power of two, or 14 significant bits where that is coarser.

    Opacities: 3e-5 Np, or 6e-5 of the value; temperatures: 1/32 K. What is rounded compresses.
    """
    _, exponent = np.frexp(values)
    steps = np.maximum(np.exp2(np.floor(np.log2(step))), np.exp2(exponent - 14.0))
    return np.asarray(np.rint(values / steps) * steps, dtype=np.float32)


def _write_group(folder: Path, arrays: dict[str, NDArray[Any]], attrs: dict[str, Any]) -> None:
    write_group(folder, attrs)
    for name, values in arrays.items():
        axes, unit, meaning = ABOUT[name]
        axes = axes if len(axes) == values.ndim else (axes[0], axes[-1])
        write_array(folder / name, values, axes, {"units": unit, "long_name": meaning}, COMPRESSOR)
