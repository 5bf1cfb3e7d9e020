"""A fixture for pytest: import ``push_outbox`` from here in your conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_push import testing


@pytest.fixture
def push_outbox() -> Iterator[list[testing.SentPush]]:
    """Send nothing: every alias is a locmem backend, and its outbox is yours, empty."""
    testing.reset()
    with testing.locmem():
        yield testing.outbox
    testing.reset()
