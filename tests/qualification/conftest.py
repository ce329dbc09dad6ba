"""What all qualification tests share: their figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def figure(capsys: pytest.CaptureFixture[str]) -> Callable[[str, str, Any, Any], None]:
    """``figure(promise, text, value, limit)``: print what was seen and what is promised."""

    def note(promise: str, text: str, value: Any, limit: Any) -> None:
        with capsys.disabled():
            print(f"\n{promise}: {text}: {value} (promised: {limit})")

    return note
