"""Arrays of a scan that lie in files: the same values, the same L1, and memory that is given back."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib_gpu
from calib_gpu import scan_run
from calib_gpu.errors import OutputError
from calib_gpu.store.pixel_arrays import PixelArrays, release

MIB = 1024 * 1024


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_small_arrays_stay_in_memory(tmp_path: Path) -> None:
    arrays = PixelArrays(tmp_path, 8 * 5 * 2 * 3)
    for shape in ((5, 2, 3), (6, 2, 3)):
        array = arrays.zeros(shape)
        assert (array.shape, array.any()) == (shape, False)
        assert array[:, 0, 0].flags.c_contiguous
        assert (array.base is None or array.base.base is None) == (shape == (5, 2, 3))
    assert not any(tmp_path.iterdir())  # the file has no name


def test_released_values_come_back(tmp_path: Path) -> None:
    arrays = PixelArrays(tmp_path, 0)
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(MIB // 8, 2, 8))
    array, flags = arrays.zeros(truth.shape), arrays.zeros((7, 1, 3), np.uint16)
    before = resident()
    flags[...] = 9
    for r, a in np.ndindex(truth.shape[1:]):
        array[:, r, a] = truth[:, r, a]
        release(array[:, r, a], flags, None, truth)  # what is not in a file is left alone
    assert resident() - before < 6 * MIB  # of 16
    np.testing.assert_array_equal(array, truth)
    whole = resident()
    release(array[:, 1, :], array[:, 0, 3:5])
    assert whole - resident() > 9 * MIB  # 10 of 16 pixels
    np.testing.assert_array_equal(array, truth)
    assert np.all(flags == 9)


def test_without_room_there_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=f"{tmp_path.name}: cannot write: No space left"):
        PixelArrays(tmp_path, 0).zeros((10, 1, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loads": "linear"},
        {"reference": "interp"},
        {"fit_weights": "radiometer", "fit_bins": 64},
        {"tp_ref": "mean"},
    ],
)
def test_l1_is_the_same_where_all_arrays_lie_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    from calib_gpu.simulate import realistic, simulate

    simulate(tmp_path / "l0.zarr", realistic("tiny"))
    l1 = [tmp_path / "memory.zarr", tmp_path / "files.zarr"]
    calib_gpu.calibrate(tmp_path / "l0.zarr", l1[0], calib_gpu.Settings(**settings))
    monkeypatch.setattr(scan_run, "MEMORY_PER_ARRAY", 1 << 60)
    made = []
    monkeypatch.setattr(scan_run, "PixelArrays", lambda *given: made.append(given) or PixelArrays(*given))
    calib_gpu.calibrate(tmp_path / "l0.zarr", l1[1], calib_gpu.Settings(**settings))
    assert [limit for _, limit in made] == [0]
    files = [{p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()} for path in l1]
    assert files[0] == files[1]
    assert len(files[0]) > 100
