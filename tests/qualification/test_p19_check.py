"""P19: L1 can be proven later. ``check`` finds any flipped bit of any file, and any missing or surplus file, and names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib_gpu
from calib_gpu.cli import main
from calib_gpu.testing.damage import DAMAGES, flip_bit
from calib_gpu.testing.tamper import sound_store
from small_scan import two_bands

FLIPS = 200


@pytest.fixture(scope="module")
def l1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("l1")
    sound_store(folder / "l0.zarr")
    assert calib_gpu.calibrate(folder / "l0.zarr", folder / "l1.zarr").exit_code == 0
    return folder / "l1.zarr"


def check(store: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["check", str(store)])
    return int(left.value.code or 0), capsys.readouterr().out


def files_of(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("*") if p.is_file())


def test_a_sound_store(l1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(l1, capsys) == (0, "2 scan(s) checked, all as written\n")


def test_any_flipped_bit(l1: Path, capsys: pytest.CaptureFixture[str], figure: Any) -> None:
    """Bits are drawn by file, then by place: small documents are hit as often as large chunks."""
    rng, files, missed = np.random.default_rng(19), files_of(l1), []
    for k in range(FLIPS):
        file = files[k % len(files)]
        raw = file.read_bytes()
        flip_bit(file, int(rng.integers(0, 8 * len(raw))))
        code, said = check(l1, capsys)
        file.write_bytes(raw)
        if code != 1 or str(file) not in said:
            missed.append((str(file.relative_to(l1)), code, said))
    figure("P19", "flipped bits of L1 that check names", f"{FLIPS - len(missed)} of {FLIPS}", "100 %")
    assert missed == []
    assert check(l1, capsys)[0] == 0


def test_other_damage(l1: Path, capsys: pytest.CaptureFixture[str], figure: Any) -> None:
    missed, n = [], 0
    for file in files_of(l1)[::5]:
        for name, damage in DAMAGES.items():
            raw = file.read_bytes()
            damage(file)
            code, said = check(l1, capsys)
            file.write_bytes(raw)
            n += 1
            if code != 1 or str(file) not in said:
                missed.append((str(file.relative_to(l1)), name, code, said))
    stray = next(l1.glob("scan_*")) / "spectra" / "c.9.9.9.9.9"
    stray.write_bytes(b"x")
    code, said = check(l1, capsys)
    stray.unlink()
    assert (code, str(stray) in said) == (1, True)
    figure("P19", "damaged files of L1 that check names", f"{n - len(missed)} of {n}", "100 %")
    assert missed == []


def test_bands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calib_gpu.calibrate(two_bands(tmp_path / "l0.zarr"), tmp_path / "l1.zarr")
    for file in files_of(tmp_path / "l1.zarr"):
        raw = file.read_bytes()
        flip_bit(file, 8 * len(raw) // 2)
        code, said = check(tmp_path / "l1.zarr", capsys)
        file.write_bytes(raw)
        assert (code, str(file) in said) == (1, True), file
