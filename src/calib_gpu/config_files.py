"""Settings from text: options on the command line, TOML files, and the telescope profiles of the package."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import ConfigError
from calib_gpu.settings import MIB, knobs, rule_of, suggestion

PROFILE_TABLES: Final = ("about", "source")
"""Tables that a profile may have beside its settings: ``[about] title``, and where each value is from."""
ASSUMED: Final = "assumption"
"""First word of a source that is none."""
SHORTEST_PART: Final = 3


@dataclass(frozen=True)
class Profile:
    """A telescope profile: its settings, and for each the text that says where the value is from."""

    name: str
    title: str
    values: Mapping[str, Any]
    source: Mapping[str, str]

    def assumed(self) -> tuple[str, ...]:
        """Settings whose value is an assumption, or of which the file does not say where it is from."""
        return tuple(n for n in self.values if self.source.get(n, ASSUMED).lower().startswith(ASSUMED))


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", array=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML: {error}", array=str(path)) from None


def _values(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings among the keys of a document; text values are read as on the command line."""
    nested = [key for key, value in data.items() if isinstance(value, dict)]
    if nested:
        raise ConfigError("tables are not used", array=f"{path}: {', '.join(nested)}", rule="flat keys, name = value")
    return {name: parse_text(name, value) if isinstance(value, str) else value for name, value in data.items()}


def parse_text(name: str, text: str) -> Any:
    """Value of a setting from its text on the command line (``--set name=text``)."""
    knob = knobs().get(name)
    if knob is None:
        raise ConfigError("no such setting", array=name, fix=suggestion(name))
    if knob.metadata["unit"] == "bytes":
        return parse_size(name, text)
    if text.replace("-", "_") in knob.metadata["choices"]:
        return text.replace("-", "_")
    if text.lower() in ("none", "") and "None" in str(knob.type):
        return None
    if knob.type == "bool":
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ConfigError("not a truth value", array=name, value=text, rule="true or false")
        return text.lower() in ("true", "1", "yes")
    if "int" in str(knob.type) or "float" in str(knob.type):
        try:
            return int(text) if "int" in str(knob.type) else float(text)
        except ValueError:
            raise ConfigError("not a number", array=name, value=text, rule=rule_of(knob)) from None
    return text


def parse_size(name: str, text: str) -> int:
    """Bytes of a size such as 512M, 2GiB or 1000000."""
    units = {"": 1, "K": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}
    body = text.strip().upper().removesuffix("IB").removesuffix("B")
    number, unit = (body[:-1], body[-1]) if body and body[-1] in units else (body, "")
    try:
        return int(float(number) * units[unit])
    except (ValueError, OverflowError):
        raise ConfigError("not a size", array=name, value=text, rule="a number with K, M, G or T, e.g. 512M") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Settings of a TOML file with flat keys."""
    return _values(_document(path), path)


def shipped_profiles() -> list[str]:
    """Names of the telescope profiles in the package."""
    folder = resources.files("calib_gpu") / "profiles"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def load_profile(name: str) -> Profile:
    """A telescope profile: the name of a shipped one, or the path of a TOML file.

    Raises
    ------
    ConfigError
        There is none of this name; the file cannot be read, or a table of it is not what it should be.
    """
    if name.endswith(".toml") or "/" in name:
        return _profile(Path(name).stem, Path(name))
    known = shipped_profiles()
    if name not in known:
        raise ConfigError(
            "no such telescope profile", array=name, fix=f"shipped: {', '.join(known)}; or give a TOML file"
        )
    with resources.as_file(resources.files("calib_gpu") / "profiles" / f"{name}.toml") as path:
        return _profile(name, path)


def _profile(name: str, path: Path) -> Profile:
    data = _document(path)
    tables = {key: data.pop(key) for key in PROFILE_TABLES if isinstance(data.get(key), dict)}
    values, about, source = _values(data, path), tables.get("about", {}), tables.get("source", {})
    for where, table, allowed in (("about", about, {"title"}), ("source", source, set(values))):
        for key, text in table.items():
            if key not in allowed or not isinstance(text, str):
                rule = "a text of [about] title" if where == "about" else "a text for a setting that this file gives"
                raise ConfigError("not understood", array=f"{path}: [{where}] {key}", value=text, rule=rule)
    return Profile(name, _line(about.get("title", "")), values, {k: _line(v) for k, v in source.items()})


def _line(text: str) -> str:
    return " ".join(text.split())


def read_profile(name: str) -> dict[str, Any]:
    """Settings of a telescope profile: the name of a shipped one, or the path of a TOML file."""
    return dict(load_profile(name).values)


def fitting_profiles(words: list[str]) -> list[str]:
    """The shipped profiles that share most parts of their names with these words (telescope, instrument)."""
    tokens = {token for word in words for token in re.findall(r"[a-z0-9]+", word.lower())}
    shared = {name: sum(_in_name(part, tokens) for part in name.split("-")) for name in shipped_profiles()}
    most = max(shared.values())
    return [name for name, n in shared.items() if n == most] if most else []


def _in_name(part: str, tokens: set[str]) -> bool:
    """HFAV is of hfa, GREAT of upgreat."""
    return any(
        token == part
        or (min(len(token), len(part)) >= SHORTEST_PART and (token.startswith(part) or part.endswith(token)))
        for token in tokens
    )
