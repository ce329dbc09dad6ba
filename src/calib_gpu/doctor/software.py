"""Packages and codecs."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from typing import Final

import numpy as np

from calib_gpu.backend import BACKENDS
from calib_gpu.doctor import Finding

NEEDED: Final = ("numpy", "zarr", "numcodecs", "google-crc32c", "zstandard", "typer", "rich")

# distributions of which one is enough, what is lost without, how to get it
OPTIONAL: Final = (
    (("xarray",), "no calib_gpu.open_l1", "xarray"),
    (("dask",), "calib_gpu.open_l1 reads arrays whole when they are first used, not piece by piece", "xarray"),
    (("astropy",), "no ingest and export of SDFITS", "fits"),
    (("matplotlib",), "no calib-gpu plot and atm plot; the report does not need it", "plot"),
    (("am-python",), "no calib-gpu atm make: opacity tables are those of the package, or converted from text", "atm"),
    (("pyerfa",), "LSR frequencies need attribute frame_velocity_m_s, which is not computed", "frame"),
    (("specutils",), "no .calib.to_spectrum()", "specutils"),
    (("cupy-cuda12x", "cupy-cuda13x", "cupy"), "no GPU: all arithmetic on the processor", "cuda12"),
    (
        ("kvikio-cu12", "kvikio-cu13", "kvikio"),
        "no GPUDirect Storage: counts reach a GPU through host memory",
        "gds12",
    ),
    (
        ("nvidia-libnvcomp-cu12", "nvidia-libnvcomp-cu13"),
        "no gpu_reader and no codec nvcomp_zstd: for a GPU, too, counts are decoded and L1 is encoded by the host",
        "gds12",
    ),
)
FOR_A_GPU: Final = ("cuda12", "gds12")


def packages() -> list[Finding]:
    """Versions of what is needed and of what is optional."""
    found = [Finding("software", "Python", f"{platform.python_version()} ({platform.platform()})")]
    for name in NEEDED:
        version = _version(name)
        broken = {} if version else {"state": "broken", "cost": f"needed: pip install {name}"}
        found.append(Finding("software", name, version or "not installed", **broken))
    for names, cost, extra in OPTIONAL:
        there = next((f"{n} {v}" if n != names[0] else v for n in names if (v := _version(n))), None)
        if there:
            found.append(Finding("software", names[0], there))
        elif extra in FOR_A_GPU and set(BACKENDS) == {"numpy"}:
            found.append(
                Finding("software", names[0], "not installed", "missing", "nothing: this release has no use for it")
            )
        else:
            told = f"{cost}; pip install 'calib-gpu[{extra}]'"
            found.append(Finding("software", names[0], "not installed", "missing", told))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def codecs() -> list[Finding]:
    """Whether each codec gives back what it was given, and whether checksums are computed by compiled code."""
    import gzip
    import zlib

    import google_crc32c
    import numcodecs.blosc
    import numcodecs.zstd

    from calib_gpu.store import codecs as ours

    data = np.arange(4096, dtype=np.int32).tobytes()
    encoded: dict[str, Callable[[], bytes]] = {
        "zstd": lambda: numcodecs.zstd.compress(data, 1),
        "blosc": lambda: numcodecs.blosc.compress(data, b"zstd", 1),
        "gzip": lambda: gzip.compress(data),
        "zlib": lambda: zlib.compress(data),
    }
    found = []
    for name in ours.DECODERS:
        out = np.empty(len(data), np.uint8)
        try:
            ours.decode((name,), encoded[name](), out)
            good, what = out.tobytes() == data, "decodes to other bytes"
        except Exception as error:  # whatever a damaged library does is what the user wants to know
            good, what = False, f"fails: {type(error).__name__}: {error}"
        cost = "stores with this codec cannot be read: install numcodecs again"
        found.append(Finding("codecs", name, "works") if good else Finding("codecs", name, what, "broken", cost))
    compiled = google_crc32c.implementation == "c"
    cost = "" if compiled else "checksums in pure Python, some 100 times slower: install a wheel of google-crc32c"
    state = "ok" if compiled else "slow"
    return [*found, Finding("codecs", "crc32c", "compiled" if compiled else "pure Python", state, cost)]
