"""What all qualification tests share: the figure that each prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Figure = Callable[[str, str, Any, Any], None]


@pytest.fixture
def figure(capsys: pytest.CaptureFixture[str]) -> Figure:
    """``figure(promise, text, value, limit)``: print what was seen and what is promised."""

    def note(promise: str, text: str, value: Any, limit: Any) -> None:
        with capsys.disabled():
            print(f"\n{promise}: {text}: {value} (promised: {limit})")

    return note
