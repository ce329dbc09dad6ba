"""Options that ``run`` and ``watch`` share, and how options become settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from calib_gpu.cli.common import build_settings

if TYPE_CHECKING:
    from calib_gpu.settings import Settings

Backend = Annotated[str | None, typer.Option(help="auto | numpy | cupy; auto: a GPU where there is one.")]
WorkerThreads = Annotated[int | None, typer.Option(help="Worker threads; 0: one per usable core.")]
Memory = Annotated[str | None, typer.Option(help="Memory for scan arrays and tiles, e.g. 512M.")]
DeviceMemory = Annotated[str | None, typer.Option(help="Memory of the GPU for tiles, e.g. 4G.")]
Dtype = Annotated[str | None, typer.Option(help="float64 | float32")]
Precision = Annotated[
    str | None, typer.Option(help="off | auto | BITS: round T_A* far below its noise; files of a quarter.")
]
Codec = Annotated[str | None, typer.Option(help="auto | zstd | blosc-zstd | blosc-lz4 | nvcomp-zstd (on the GPU)")]
Level = Annotated[int | None, typer.Option(help="zstd level of L1.")]
RequireChecksum = Annotated[
    bool, typer.Option("--require-checksum", help="Refuse scans with an array that has no checksum.")
]

SETTINGS: Final = (
    "mode", "reference", "loads", "atmosphere", "pwv", "pwv_scope", "backend", "workers", "memory", "device_memory",
    "dtype", "precision", "codec", "level", "require_checksum", "overwrite", "quiet",
)  # fmt: skip
"""Options that are settings of the same name."""


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Settings from the options of ``run`` or ``watch``, by name; None and false are not given."""
    given = {name: options[name] for name in SETTINGS if options.get(name) not in (None, False)}
    if "pwv_scope" in given:
        given["pwv_scope"] = given["pwv_scope"].replace("-", "_")
    return build_settings(given, options["assignments"], options["config"], options["profile"])
