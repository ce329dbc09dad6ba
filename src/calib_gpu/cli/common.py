"""What the commands share: the application, options that become settings, log lines, the way to leave."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import typer

from calib_gpu.errors import ConfigError, Exit

if TYPE_CHECKING:
    from pathlib import Path

    from calib_gpu.records import ScanId
    from calib_gpu.settings import Settings

app = typer.Typer(
    help="Calibrate heterodyne array spectra: raw counts (L0) to antenna temperatures T_A* (L1).\n\n"
    "Start with `calib-gpu demo`, or `calib-gpu run L0.zarr L1.zarr`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


class Done(Exception):
    """Leave with an exit code; not a SystemExit, so that the command-line library does not touch it."""

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        from calib_gpu._version import __version__

        typer.echo(f"calib-gpu {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


_SCAN: Final = re.compile(r"(?:scan_)?(\d{1,9})(?:/(band_[\w.-]+))?")
_RANGE: Final = re.compile(r"(?:scan_)?(\d{1,9})-(?:scan_)?(\d{1,9})")


def parse_scan(text: str, option: str = "--scan") -> ScanId:
    """``25650``, ``scan_025650`` or ``25650/band_LFA``, as commands print it; without a band it is empty."""
    from calib_gpu.records import ScanId

    match = _SCAN.fullmatch(text.strip())
    if not match:
        rule = "a number or a name, e.g. 25650, scan_025650 or scan_025650/band_LFA"
        raise ConfigError("not a scan", array=option, value=text, rule=rule)
    return ScanId(int(match[1]), match[2] or "")


def parse_scans(text: str | None) -> list[int] | None:
    """``25650,25652-25660`` as numbers; None without text. A band stands for its scan with all bands."""
    if text is None:
        return None
    numbers: list[int] = []
    for part in map(str.strip, text.split(",")):
        ends = _RANGE.fullmatch(part)
        if not ends and not _SCAN.fullmatch(part):
            rule = "numbers, names and ranges, e.g. 25650,scan_025651,25652-25660"
            raise ConfigError("not a list of scans", array="--scans", value=text, rule=rule)
        first, last = (int(ends[1]), int(ends[2])) if ends else (parse_scan(part).number,) * 2
        if last < first or last - first > 1_000_000:
            raise ConfigError("not a range of scans", array="--scans", value=part, rule="first-last, ascending")
        numbers += range(first, last + 1)
    return numbers


def build_settings(
    given: dict[str, Any], assignments: list[str] | None, config: Path | None, profile: str | None
) -> Settings:
    """Settings from options (those that are not None), ``--set``, ``--config`` and ``--profile``."""
    from calib_gpu.config_files import parse_text, read_profile, read_toml
    from calib_gpu.settings import Settings

    options = {
        name: parse_text(name, value) if isinstance(value, str) else value
        for name, value in given.items()
        if value is not None
    }
    for text in assignments or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("not an assignment", array="--set", value=text, rule="name=value, e.g. --set eta_f=0.94")
        options[name.strip()] = parse_text(name.strip(), value.strip())
    return Settings.layered(
        options, None if config is None else read_toml(config), None if profile is None else read_profile(profile)
    )
