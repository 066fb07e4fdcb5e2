"""Messages as Alertmanager's own template engine renders them, also for runs with nasty names."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from alert_files import render, tool

from training_exporter.stack import binaries

NASTY = [
    "plain",
    'with "quotes" and a \\backslash',
    "<script>alert(1)</script>",
    "<!channel> & <https://evil.example|click>",
    "\u202egnp.exe \u2066x\u2069",
    "מסחר באנגלית",
    "a|b}c{d,e=f+g%20h#i?j",
    "two\nlines\ttab",
    "{{ .ExternalURL }}",
    "x" * 300,
]
FIRING = {"severity": "critical", "alertname": "LossNaN", "sign": "loss_nan"}


def alert(run: str | None, status: str = "firing", **more: str) -> dict[str, Any]:
    labels = {**FIRING, **({"run": run} if run is not None else {}), **more}
    name = labels["alertname"]
    return {
        "status": status,
        "labels": labels,
        "annotations": {
            "summary": f"Summary of {name}.",
            "description": f"Run {run}: smoothed loss 1.36 & best 1.2, learning rate 2e-4.",
            "expected": "A decline from about 2.0 to about 0.7.",
            "remedy": "Decrease the learning rate (now 2e-4).",
            "runbook_url": f"http://inbox.example/runbooks/{name}",
            "dashboard_url": "http://grafana.example/d/llm-training?var-run=a%22b&var-x=1",
        },
        "startsAt": "2026-03-01T09:15:30+01:00",
        "endsAt": "2026-03-01T09:20:00+01:00" if status == "resolved" else "0001-01-01T00:00:00Z",
    }


def group(*alerts: dict[str, Any]) -> dict[str, Any]:
    """The fields that Alertmanager gives to a template, for these alerts."""

    def common(key: str) -> dict[str, str]:
        first, *others = (item[key] for item in alerts)
        return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}

    return {
        "receiver": "people",
        "status": "firing" if any(item["status"] == "firing" for item in alerts) else "resolved",
        "alerts": list(alerts),
        "groupLabels": {},
        "commonLabels": common("labels"),
        "commonAnnotations": common("annotations"),
        "externalURL": "http://alertmanager.example",
    }


class Page(HTMLParser):
    """Text, links and tag names of an HTML page; fails on tags that are not closed in order."""

    VOID = frozenset({"meta", "br", "hr", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: dict[str, str] = {}
        self.words = ""
        self._open: list[str] = []
        self._href = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "a":
            self._href = dict(attrs)["href"] or ""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._open and self._open[-1] == "a":
            self.links[data] = self._href


def cleaned(text: str) -> str:
    return re.sub(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", re.sub(r"[\x00-\x1f\x7f]+", " ", text))


def slack(text: str) -> str:
    return cleaned(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@pytest.mark.parametrize("run", NASTY)
def test_slack_message(run: str, tmp_path: Path) -> None:
    data = group(alert(run))
    title = render("training.slack.title", data, tmp_path).rstrip("\n")
    assert title == f"🔴 CRITICAL {slack(run)}: Summary of LossNaN."
    text = render("training.slack.text", data, tmp_path)
    assert slack(data["alerts"][0]["annotations"]["description"]) in text
    assert "*Expected:* A decline from about 2.0 to about 0.7." in text
    assert "*What to do:* Decrease the learning rate (now 2e-4)." in text
    assert "LossNaN, critical, since 2026-03-01 08:15:30 UTC" in text
    # Every < begins one of our links: nothing in a name can mention a channel or forge a link.
    links = dict(reversed(link.split("|")) for link in re.findall(r"<([^<>]*)>", text))
    assert text.count("<") == text.count(">") == len(links) == 3
    assert links["Dashboard"] == "http://grafana.example/d/llm-training?var-run=a%22b&amp;var-x=1"
    assert links["Runbook"] == "http://inbox.example/runbooks/LossNaN"
    assert silence_matchers(links["Silence"]) == expected_matchers(data)
    assert "+" not in links["Silence"], "Alertmanager's page does not read + as a space"


@pytest.mark.parametrize("run", NASTY)
def test_mail(run: str, tmp_path: Path) -> None:
    data = group(alert(run))
    subject = render("training.subject", data, tmp_path).rstrip("\n")
    assert subject == f"🔴 CRITICAL {cleaned(run)}: Summary of LossNaN."

    page = Page(render("training.email.html", data, tmp_path, html=True))
    assert set(page.tags) <= {"html", "head", "meta", "title", "body", "div", "bdi", "a"}
    words = " ".join(page.words.split())
    for text in data["alerts"][0]["annotations"].values():
        assert text.startswith("http") or " ".join(cleaned(text).split()) in words
    assert "since 2026-03-01 08:15:30 UTC" in words
    assert page.links["Dashboard"] == data["alerts"][0]["annotations"]["dashboard_url"]
    assert page.links["Runbook"] == "http://inbox.example/runbooks/LossNaN"
    assert silence_matchers(page.links["Silence"]) == expected_matchers(data)

    plain = render("training.email.text", data, tmp_path)
    for text in data["alerts"][0]["annotations"].values():
        assert cleaned(text) in plain
    (silence,) = re.findall(r"^Silence: +(\S+)$", plain, re.MULTILINE)
    assert silence_matchers(silence) == expected_matchers(data)


def silence_matchers(url: str) -> str:
    parts = urlsplit(url.replace("&amp;", "&"))
    assert (parts.netloc, parts.path) == ("alertmanager.example", "/")
    page, _, filter_ = parts.fragment.partition("?filter=")
    assert page == "/silences/new"
    return unquote(filter_)


def expected_matchers(data: dict[str, Any]) -> str:
    """Alertmanager's own syntax for exactly this alert."""
    labels = data["alerts"][0]["labels"]
    names = ["alertname", *sorted(set(labels) - {"alertname"})]
    quoted = {name: labels[name].replace("\\", "\\\\").replace('"', '\\"') for name in names}
    return "{" + ", ".join(f'{name}="{value}"' for name, value in quoted.items()) + "}"


def test_silence_filter_is_what_alertmanager_parses(tmp_path: Path) -> None:
    # amtool parses matchers as the server does; it fails here only for want of a server.
    matchers = silence_matchers(
        re.findall(r"<([^|<>]*)\|Silence>", render("training.slack.text", group(alert('a "b" \\c')), tmp_path))[0]
    )
    for matcher in re.findall(r'\w+="(?:[^"\\]|\\.)*"', matchers):
        result = tool(binaries.AMTOOL, "alert", "query", "--alertmanager.url=http://127.0.0.1:1", matcher)
        assert "connection refused" in result.stderr, result.stderr


def test_resolved(tmp_path: Path) -> None:
    data = group(alert("demo", "resolved"))
    assert render("training.subject", data, tmp_path).strip() == "✅ RESOLVED demo: Summary of LossNaN."
    assert render("training.color", data, tmp_path).strip() == "#2e7d32"
    text = render("training.slack.text", data, tmp_path)
    page = Page(render("training.email.html", data, tmp_path, html=True))
    plain = render("training.email.text", data, tmp_path)
    for message in (text, page.words, plain):
        assert "No longer seen" in message
        assert "2026-03-01 08:15:30 to 08:20:00 UTC" in message
        assert "Decrease the learning rate" not in message, "there is nothing left to do"
        assert "Silence" not in message


def test_several_alerts_firing_and_resolved_in_one_group(tmp_path: Path) -> None:
    data = group(
        alert("demo", severity="warning", alertname="LossRising", sign="loss_rising"),
        alert("demo", severity="warning", alertname="EarlyPlateau", sign="early_plateau"),
        alert("demo", "resolved", severity="warning", alertname="ValGap", sign="val_gap"),
    )
    assert render("training.subject", data, tmp_path).strip() == "🟠 WARNING demo: 2 alerts, 1 resolved."
    text = render("training.slack.text", data, tmp_path)
    page = Page(render("training.email.html", data, tmp_path, html=True))
    plain = render("training.email.text", data, tmp_path)
    for message in (text, page.words, plain):
        positions = [message.index(f"Summary of {name}.") for name in ("LossRising", "EarlyPlateau", "ValGap")]
        assert positions == sorted(positions)
    assert text.count("*What to do:*") == 2
    assert text.count("|Silence>") == 2
    assert text.count("\n\n") == 2, "an empty line between alerts, none at the end"


def test_one_alert_left_of_several_gives_its_summary(tmp_path: Path) -> None:
    data = group(alert("demo"), alert("demo", "resolved", alertname="RunStalled", sign="run_stalled"))
    assert render("training.subject", data, tmp_path).strip() == "🔴 CRITICAL demo: Summary of LossNaN."


def test_a_flood_is_cut_in_slack_and_counted(tmp_path: Path) -> None:
    data = group(
        *(alert(None, severity="warning", alertname="TargetDown", instance=f"host{i}:9402") for i in range(12))
    )
    text = render("training.slack.text", data, tmp_path)
    assert text.count("*What to do:*") == 5
    assert "12 alerts in all: <http://alertmanager.example/#/alerts|see them in Alertmanager>" in text
    assert len(text) < 8000


@pytest.mark.parametrize(
    ("labels", "named"),
    [({"gpu": "3", "uuid": "GPU-1"}, "GPU 3"), ({"instance": "gpu:9402"}, "gpu:9402"), ({}, "Training")],
)
def test_alerts_without_a_run_name_what_they_are_about(labels: dict[str, str], named: str, tmp_path: Path) -> None:
    data = group(alert(None, severity="warning", alertname="Other", **labels))
    assert render("training.subject", data, tmp_path).strip() == f"🟠 WARNING {named}: Summary of Other."
    assert render("training.slack.title", data, tmp_path).strip() == f"🟠 WARNING {named}: Summary of Other."


def test_the_dashboard_link_keeps_the_run(tmp_path: Path) -> None:
    url = render("training.link", group(alert("a")), tmp_path).strip()
    assert parse_qs(urlsplit(url).query) == {"var-run": ['a"b'], "var-x": ["1"]}
    several = group(alert("a"), alert("a"))
    several["commonAnnotations"] = {}
    assert render("training.link", several, tmp_path).strip() == "http://alertmanager.example/#/alerts"
