"""Where the dashboards are; `generator` becomes importable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"
DASHBOARD_FILES = sorted((GRAFANA / "dashboards").glob("*.json"))

sys.path.insert(0, str(GRAFANA))  # the generator is a script beside the dashboards, not an installed package

#: Panels that ask Prometheus nothing.
SILENT = {"row", "text"}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels of a dashboard that show data, those in collapsed rows too."""
    every = [inner for panel in dashboard["panels"] for inner in (panel, *panel.get("panels", ()))]
    return [panel for panel in every if panel["type"] not in SILENT]
