"""Settings from TOML files: those of the user, and the telescope profiles that come with the package."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from calib_gpu.errors import ConfigError
from calib_gpu.settings import parse_text


def read_toml(path: Path) -> dict[str, Any]:
    """Settings of a TOML file with flat keys; text values are read as on the command line."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", array=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML: {error}", array=str(path)) from None
    nested = [key for key, value in data.items() if isinstance(value, dict)]
    if nested:
        raise ConfigError("tables are not used", array=f"{path}: {', '.join(nested)}", rule="flat keys, name = value")
    return {name: parse_text(name, value) if isinstance(value, str) else value for name, value in data.items()}


def shipped_profiles() -> list[str]:
    """Names of the telescope profiles in the package."""
    folder = resources.files("calib_gpu") / "profiles"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def read_profile(name: str) -> dict[str, Any]:
    """Settings of a telescope profile: the name of a shipped one, or the path of a TOML file."""
    if name.endswith(".toml") or "/" in name:
        return read_toml(Path(name))
    known = shipped_profiles()
    if name not in known:
        raise ConfigError(
            "no such telescope profile", array=name, fix=f"shipped: {', '.join(known)}; or give a TOML file"
        )
    with resources.as_file(resources.files("calib_gpu") / "profiles" / f"{name}.toml") as path:
        return read_toml(path)
