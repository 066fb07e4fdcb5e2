"""Fixtures of the dashboards' tests: the committed dashboards, and a Prometheus that watches real runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_files import DASHBOARD_FILES
from grafana_live import Recording, record

from training_exporter.stack.binaries import ALERTMANAGER, PROMETHEUS


@pytest.fixture(params=DASHBOARD_FILES, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each committed dashboard."""
    return dict(json.loads(request.param.read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """A Prometheus that has scraped a healthy run, a broken one, and a GPU; it still answers queries."""
    if PROMETHEUS.find() is None or ALERTMANAGER.find() is None:
        pytest.skip("prometheus or alertmanager is not on PATH: `make setup` installs them where it can")
    with record(tmp_path_factory.mktemp("grafana")) as recorded:
        yield recorded
