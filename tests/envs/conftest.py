"""Makes tests/envs/sample_envs.py importable by name, here and in worker processes."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def sample_envs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
