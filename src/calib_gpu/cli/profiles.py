"""``calib-gpu profiles``: telescope profiles, and where their numbers are from."""

from __future__ import annotations

from typing import Annotated

import typer

from calib_gpu.cli.common import app


@app.command()
def profiles(
    name: Annotated[
        str | None, typer.Argument(help="A shipped profile, or the path of a TOML file; none: list the shipped ones.")
    ] = None,
) -> None:
    """Show the telescope profiles, or one: each value, its unit and meaning, and where it is from.

    What is not known is marked as an assumption. A TOML file of your own is shown, and used by --profile, the same way.

    Example: `calib-gpu profiles fyst-chai-lfa`
    """
    from calib_gpu.cli.tables import show
    from calib_gpu.inspection.profiles import profile_table, profiles_table

    show([profiles_table() if name is None else profile_table(name)])
