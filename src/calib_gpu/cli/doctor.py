"""``calib-gpu doctor``: what this machine has, and what it costs where something is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calib_gpu.cli.common import Done, app
from calib_gpu.errors import Exit

if TYPE_CHECKING:
    from calib_gpu.doctor import Finding

COLOURS = {"ok": "green", "missing": "yellow", "slow": "yellow", "broken": "bold red"}


@app.command()
def doctor(
    path: Annotated[Path | None, typer.Argument(help="Where L1 shall go: its file system is tried out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a bug report or a script.")] = False,
) -> None:
    """Show versions, codecs, cores, memory, GPU and driver, and what each missing part costs.

    With PATH also what its file system can do: locks, renames, fsync, speed (20 MB are written there and removed).

    Exit codes: 0 the engine can work here, 1 something that it needs is broken.

    Example: `calib-gpu doctor /data/l1`
    """
    from calib_gpu import doctor as logic

    findings = logic.examine(path)
    if as_json:
        typer.echo(json.dumps(logic.as_json(findings), indent=1))
    else:
        _show(findings)
    raise Done(Exit.ALL if logic.usable(findings) else Exit.NONE)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("part", "", "found", "state", "what it costs"):
        table.add_column(column, overflow="fold", no_wrap=column in ("part", "", "state"))
    area = ""
    for finding in findings:
        if finding.area != area and area:
            table.add_section()
        head, area = "" if finding.area == area else finding.area, finding.area
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(head, finding.name, Text(finding.found), state, Text(finding.cost))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
