"""Pages of the site that are files at the top of the repository: README, changes, contributing, licence.

They stay where people look for them; the site gets copies, with the links between them and docs/ turned to fit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

TOP = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.md",
}
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from the top."""
    for name, page in PAGES.items():
        text = (TOP / name).read_text(encoding="utf-8")
        if name == "LICENSE":
            text = f"# Licence\n\n```text\n{text.strip()}\n```\n"
        files.append(File.generated(config, page, content=_turned(text, "")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of docs/ to the files at the top."""
    return markdown if page.file.src_uri in PAGES.values() else _turned(markdown, "docs/")


def _turned(text: str, folder: str) -> str:
    """Links of a page in ``folder`` of the repository, as links between pages of the site."""

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        name = target.removeprefix("../") if folder else target
        if folder and not target.startswith("../"):
            return match[0]
        return f"]({PAGES.get(name, name.removeprefix('docs/'))}{anchor})"

    return LINK.sub(link, text)
