"""Tables about telescope profiles: all of them, or one with where each value is from."""

from __future__ import annotations

from typing import Any

from calib_gpu.config_files import Profile, load_profile, shipped_profiles
from calib_gpu.inspection.tables import Table
from calib_gpu.settings import Settings, knobs

NOT_TOLD = "assumption: the file does not say"


def profiles_table() -> Table:
    """The shipped profiles."""
    rows = []
    for name in shipped_profiles():
        profile = load_profile(name)
        rows.append((name, profile.title, str(len(profile.values)), str(len(profile.assumed()))))
    notes = ("calib-gpu profiles NAME shows one; a TOML file of your own works the same, by its path",)
    return Table("telescope profiles", ("profile", "what it is", "settings", "assumptions"), rows, notes)


def profile_table(name: str) -> Table:
    """One profile, by its name or path: each setting with value, unit, meaning and where it is from.

    Raises
    ------
    ConfigError
        There is no such profile, or a value breaks its rule.
    """
    profile = load_profile(name)
    Settings.layered(profile=profile.values)
    assumed = profile.assumed()
    notes = [f"{len(assumed)} of {len(profile.values)} are assumptions: {', '.join(assumed) or 'none'}"]
    notes.append("lowest rank above the defaults: what L0, --config or an option says wins")
    title = f"telescope profile {profile.name}" + (f": {profile.title}" if profile.title else "")
    return Table(title, ("setting", "value", "unit", "meaning", "from"), profile_rows(profile), tuple(notes))


def profile_rows(profile: Profile) -> list[tuple[str, ...]]:
    """Setting, value, unit, meaning and source of each value."""
    known = knobs()
    return [
        (n, _text(v), known[n].metadata["unit"], known[n].metadata["meaning"], profile.source.get(n, NOT_TOLD))
        for n, v in profile.values.items()
    ]


def _text(value: Any) -> str:
    """The value as it is written in TOML, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)
