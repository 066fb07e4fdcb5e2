"""Where the dashboards are; `generator` becomes importable."""

from __future__ import annotations

import sys
from pathlib import Path

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"
DASHBOARD_FILES = sorted((GRAFANA / "dashboards").glob("*.json"))

sys.path.insert(0, str(GRAFANA))  # the generator is a script beside the dashboards, not an installed package
