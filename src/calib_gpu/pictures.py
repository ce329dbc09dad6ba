"""Writing a figure of matplotlib: kinds of files, what may be replaced, the same figure as the same bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import ConfigError
from calib_gpu.store import disk
from calib_gpu.store.kinds import refuse_foreign

MARK: Final = "calib-gpu picture"
"""Stands in the metadata of each picture, so that it is known as one of ours."""
KINDS: Final[dict[str, dict[str, str | None]]] = {
    ".png": {"Software": MARK},
    ".pdf": {"Creator": MARK, "CreationDate": None},
    ".svg": {"Creator": MARK, "Date": None},
}
"""Kinds of files by their ending, and their metadata; no date is among it."""


def refuse_picture(out: Path, *, overwrite: bool) -> None:
    """Before anything is drawn: the ending is that of a picture, and what stands there is one of ours.

    Raises
    ------
    ConfigError
        There is no such kind of picture.
    OutputError
        A file stands there that is not a picture of this program, and ``overwrite`` is not set.
    """
    if out.suffix.lower() not in KINDS:
        raise ConfigError("no such kind of picture", array="-o", value=out.name, rule=" | ".join(KINDS))
    refuse_foreign(out, MARK.encode(), "a picture of calib-gpu", overwrite=overwrite)


def write_picture(figure: Any, out: Path, **options: Any) -> None:
    """Write a figure; the file appears when it is whole. ``options`` are those of ``savefig``.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    kind, drawn = out.suffix.lower(), io.BytesIO()
    figure.savefig(drawn, format=kind[1:], metadata=KINDS[kind], **options)
    disk.replace_file(out, drawn.getvalue())
