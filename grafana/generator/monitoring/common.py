"""What the panels of this dashboard share."""

from __future__ import annotations

from generator.model import Json

NO_PROMETHEUS = "Prometheus does not scrape itself"
NO_ALERTMANAGER = "Alertmanager is not scraped"
NO_EXPORTER = "no exporter is scraped"

#: Options of charts that count what should not happen: an axis that ends at 1 where nothing did.
EVENTS: Json = {"unit": "locale", "decimals": 0, "min": 0, "custom": {"axisSoftMax": 1}}


def increase(*counters: str) -> str:
    """How many in each interval of the chart, in sum."""
    return " + ".join(f"sum(increase({counter}[$__rate_interval]))" for counter in counters)
