"""Asks a Prometheus over its HTTP API; only what the demo and the tests need."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from training_exporter.stack.errors import StackError

TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus at `url` (no slash at the end). Methods raise StackError where it does not answer."""

    url: str

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """An instant query's vector: (labels, value) for each series."""
        result = self._get("/api/v1/query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def samples(self, selector: str) -> list[tuple[float, float]]:
        """(Unix seconds, value) of the samples that a range selector such as `up[1m]` finds, oldest first."""
        result = self._get("/api/v1/query", query=selector)["result"]
        return sorted((float(at), float(value)) for each in result for at, value in each["values"])

    def alerts(self) -> list[dict[str, Any]]:
        """The pending and firing alerts: `labels`, `annotations`, `state`, `activeAt`."""
        alerts: list[dict[str, Any]] = self._get("/api/v1/alerts")["alerts"]
        return alerts

    def alerting_rules(self) -> list[dict[str, Any]]:
        """The loaded alert rules: `name`, `labels`, `duration` and so on."""
        return self._rules(type="alert")

    def rules(self) -> list[dict[str, Any]]:
        """All loaded rules: `name`, `query`, `evaluationTime` (seconds) and so on."""
        return self._rules()

    def _rules(self, **parameters: str) -> list[dict[str, Any]]:
        groups = self._get("/api/v1/rules", **parameters)["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> Any:
        address = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:300]
            raise StackError(f"Prometheus at {self.url}: {error.code}: {detail}") from None
        except (OSError, ValueError, KeyError) as error:
            raise StackError(f"Prometheus at {self.url} does not answer: {error}") from None
