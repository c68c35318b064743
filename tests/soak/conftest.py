"""Sizes: `make soak` runs the long form, CI the short one."""

from __future__ import annotations

import os

import pytest

LONG = os.environ.get("KEEPGATE_SOAK", "short") == "long"


@pytest.fixture
def live_sessions() -> int:
    """Sessions that are open at once."""
    return 100_000 if LONG else 4_000


@pytest.fixture
def passing_sessions() -> int:
    """Sessions that come and go."""
    return 1_000_000 if LONG else 20_000
