"""What every test file here shares: how hypothesis runs, and readable assertions in the helpers."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("checks")

settings.register_profile(
    "suite",
    deadline=None,  # time says nothing about correctness
    derandomize=True,  # the same examples on every machine
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
