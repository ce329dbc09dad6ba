"""L1 as labelled arrays: :func:`open_l1` gives xarray datasets with an accessor, ``scan.calib``."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from calib_gpu.errors import ConfigError, StoreUnusable
from calib_gpu.records import ScanId
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.metadata import group_attrs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_l1"]


def open_l1(path: str | os.PathLike[str], scan: int | str | None = None) -> xr.Dataset | xr.DataTree:
    """Open an L1 store, or one scan of it, as labelled arrays with units; nothing but metadata is read yet.

    Parameters
    ----------
    path
        The L1 store.
    scan
        A scan number; with its band where the scan has any, ``"25650/band_LFA"``. None: all scans.

    Returns
    -------
    Dataset or DataTree
        A dataset of the scan: ``spectra`` and ``flags`` [C,D,R,A,S], ``t_sys`` [C,R,A,S] and what else L1 holds, in arrays
        of dask where it is installed, else read when they are used. Without ``scan`` a tree with a node for each scan (and
        band). The methods of ``dataset.calib`` are those of ``calib_gpu.view.accessor.Calib``.

    Raises
    ------
    StoreUnusable
        ``path`` is not an L1 store.
    ConfigError
        It holds no such scan; xarray is not installed.

    Examples
    --------
    >>> scan = calib_gpu.open_l1("calibrated.zarr", 25650)  # doctest: +SKIP
    >>> scan.calib.average().isel(R=0, A=0).calib.to_spectrum()  # doctest: +SKIP
    """
    try:
        import xarray as xr
    except ImportError:
        raise ConfigError("xarray opens L1, and is not here", fix="pip install 'calib-gpu[xarray]'") from None
    from calib_gpu.view import accessor  # noqa: F401  (registers dataset.calib)

    store = Path(path)
    ids = published_scans(store)
    if scan is not None:
        return _open(store, _chosen(scan, ids))
    if not ids:
        raise StoreUnusable("holds no scans", array=str(path), fix="see its failures.json")
    tree = xr.DataTree.from_dict({s.path: _open(store, s) for s in ids})
    tree.attrs.update(group_attrs(store))
    return tree


def _chosen(scan: int | str, ids: list[ScanId]) -> ScanId:
    match = re.fullmatch(r"(?:scan_)?(\d+)(?:/(.+))?", str(scan))
    number, band = (int(match[1]), match[2] or "") if match else (-1, "")
    found = [s for s in ids if s.number == number and (not band or s.band == band)]
    if len(found) != 1:
        have = ", ".join(str(s) for s in found) or f"{len(ids)} scans, {ids[0]} to {ids[-1]}" if ids else "no scans"
        fix = "name one of its bands" if found else "calib-gpu inspect lists them"
        raise ConfigError("not one scan of this store", array="scan", value=scan, rule=f"it has {have}", fix=fix)
    return found[0]


def _open(store: Path, scan: ScanId) -> xr.Dataset:
    import xarray as xr

    chunks: dict[str, int] | None = {} if find_spec("dask") is not None else None
    # scans are added to a store one by one, so that it has no consolidated metadata
    opened: xr.Dataset = xr.open_zarr(store, group=scan.path, consolidated=False, chunks=chunks)
    return opened
