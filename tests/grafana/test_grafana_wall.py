"""The wall: what it says of each state of things, on a real Prometheus, and that it says the same as the alerts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from generator import facts, style
from generator.wall import runs, verdict
from grafana_files import GRAFANA, panels
from grafana_live import BROKEN, HEALTHY, Recording
from grafana_made_up import SAMPLES, Case, check
from test_grafana_queries import substitute

from training_exporter.events import STATES

WALL = json.loads((GRAFANA / "dashboards" / "wall.json").read_text(encoding="utf-8"))
ANY = ".+"


def panel(title: str) -> dict[str, Any]:
    (found,) = (p for p in WALL["panels"] if p["title"] == title and p["type"] != "timeseries")
    return dict(found)


def shown(title: str, recording: Recording, at: float, run: str = ANY) -> list[tuple[str, str, str]]:
    """What a tile shows: name, value as its mappings have it, and the text's colour, for each of its series."""
    (target,) = panel(title)["targets"]
    mappings = panel(title)["fieldConfig"]["defaults"]["mappings"]
    (texts,) = (
        (m["options"] for m in mappings if m["type"] == "value")
        if any(m["type"] == "value" for m in mappings)
        else ({},)
    )
    rows = []
    for series in recording.instant(substitute(target["expr"], run), at):
        name = re.sub(r"\{\{(\w+)\}\}", lambda m, s=series: s["metric"].get(m[1], ""), target["legendFormat"])
        text = texts.get(series["value"][1], {"text": series["value"][1]})
        rows.append((name, text["text"], text.get("color", "")))
    return rows


# -- what it says of real runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "moment", "expected"),
    [
        (f"{HEALTHY}|{BROKEN}", "calm", (BROKEN, "All well", style.FINE)),  # of two at work the one that started last
        (HEALTHY, "calm", (HEALTHY, "All well", style.FINE)),
        (ANY, "broken", (BROKEN, "Loss is NaN", style.ALARM)),
        (HEALTHY, "broken", (HEALTHY, "All well", style.FINE)),
        (HEALTHY, "ended", (HEALTHY, "Finished", style.DONE)),
        ("another", "ended", ("no run in the last day", "Nothing is training", style.IDLE)),
    ],
)
def test_verdict(recording: Recording, run: str, moment: str, expected: tuple[str, str, str]) -> None:
    assert shown("Verdict", recording, getattr(recording, moment), run) == [expected]


def test_what_is_wrong(recording: Recording) -> None:
    assert shown("What is wrong", recording, recording.calm) == [
        ("no alert is firing", "The alert rules see nothing wrong.", "transparent")
    ]
    (first, *_) = shown("What is wrong", recording, recording.broken)
    assert first == (f"{BROKEN}, for less than a minute", "The training produces NaN or infinite values.", style.ALARM)


@pytest.mark.parametrize(
    ("run", "moment", "tones"),
    [
        (HEALTHY, "calm", {"well"}),
        (HEALTHY, "ended", {"past"}),
        (BROKEN, "broken", {"well", "critical"}),
    ],
)
def test_tiles(recording: Recording, run: str, moment: str, tones: set[str]) -> None:
    found = {}
    for title in ("Training loss", "Validation loss", "Perplexity", "Learning rate", "Tokens per second"):
        for tone, value, _ in shown(title, recording, getattr(recording, moment), run):
            found[title] = (tone, value)
    assert {tone for tone, _ in found.values()} == tones
    if "critical" in tones:
        assert found["Training loss"] == ("critical", "NaN")
        assert found["Learning rate"][0] == "well"


# -- what it says of states that are made up --------------------------------------------------------------------------

ALWAYS = f"1x{SAMPLES}"
WATCHDOG = {'ALERTS{alertname="Watchdog",alertstate="firing",severity="none"}': ALWAYS}
TRAINING, COMPLETED, FAILED, STOPPED = (
    runs.number(name) for name in ("training", "completed", "failed", "interrupted")
)


def a_run(name: str, number: int, start: int = 1000, until: int = SAMPLES) -> dict[str, str]:
    """A run in one state, from the beginning until sample `until`."""
    end = "" if until == SAMPLES else " stale"
    return {
        f'run:llm_training_state:number{{run="{name}"}}': f"{number}x{until}{end}",
        f'llm_training_start_timestamp_seconds{{run="{name}"}}': f"{start}x{until}{end}",
        f'llm_training_loss{{run="{name}"}}': f"{start}x{until}{end}",
    }


def expr(title: str) -> str:
    (target,) = panel(title)["targets"]
    return substitute(target["expr"], ANY)


def text_of(title: str, number: int) -> str:
    (texts,) = (m["options"] for m in panel(title)["fieldConfig"]["defaults"]["mappings"] if m["type"] == "value")
    return str(texts[str(number)]["text"])


@pytest.mark.parametrize(
    ("series", "where", "number", "text"),
    [
        ({**WATCHDOG, **a_run("a", TRAINING)}, 'run="a",where="a"', TRAINING, "All well"),
        (a_run("a", TRAINING), 'run="a",where="a"', verdict.UNGUARDED, "No alert rules"),
        ({**WATCHDOG, **a_run("a", COMPLETED, until=9)}, 'run="a",where="a"', COMPLETED, "Finished"),
        ({**WATCHDOG, **a_run("a", FAILED, until=9)}, 'run="a",where="a"', FAILED, "Failed"),
        ({**WATCHDOG, **a_run("a", STOPPED, until=9)}, 'run="a",where="a"', STOPPED, "Stopped"),
        ({**WATCHDOG, **a_run("a", TRAINING, until=58)}, 'run="a",where="a"', TRAINING, "All well"),
        ({**WATCHDOG, **a_run("a", TRAINING, until=50)}, 'run="a",where="a"', runs.NO_ANSWER, "Vanished"),
        (
            {**WATCHDOG, 'up{job="training",instance="x"}': f"0x{SAMPLES}", 'up{job="prometheus"}': ALWAYS},
            'where="no target can be scraped"',
            verdict.UNREACHABLE,
            "Nothing answers",
        ),
        (WATCHDOG, 'where="no run in the last day"', verdict.ABSENT, "Nothing is training"),
    ],
)
def test_verdict_without_an_alert(series: dict[str, str], where: str, number: int, text: str, tmp_path: Path) -> None:
    name = '__name__="run:llm_training_state:number",'
    labels = f"{{{name if number in range(1, runs.NO_ANSWER) else ''}{where}}}"
    check([Case(expr("Verdict"), series, {labels: number})], tmp_path)
    assert text_of("Verdict", number) == text


def test_which_run_is_shown(tmp_path: Path) -> None:
    """The newest at work; a run that has ended or vanished later gives way; without any at work the newest."""
    old, new = a_run("old", TRAINING, 1000), a_run("new", TRAINING, 2000)
    ended, gone = a_run("ended", COMPLETED, 3000, 20), a_run("gone", TRAINING, 4000, 30)
    query = substitute(runs.last("llm_training_loss"), ANY)
    cases = [
        Case(query, {**old, **new, **ended, **gone}, {'{run="new"}': 2000}),
        Case(query, {**old, **ended}, {'{run="old"}': 1000}),
        Case(query, {**ended, **gone}, {'{run="gone"}': 4000}),
        Case(query, ended, {'{run="ended"}': 3000}),
        Case(substitute(runs.now("llm_training_loss"), ANY), ended, {}),
    ]
    check(cases, tmp_path)


def labels_of(alert: facts.Alert) -> tuple[dict[str, str], str]:
    """Labels as the rule gives them, and what the wall then says where it is."""
    where = {"GpuMemoryHigh": {"gpu": "3"}, "GpuMemoryGrowing": {"gpu": "3"}, "TargetDown": {"instance": "h:1"}}
    place = where.get(alert.name, {"run": "a"})
    sign = {"sign": alert.sign} if alert.sign else {}
    labels = {"alertname": alert.name, "severity": alert.severity, "alertstate": "firing", **sign, **place}
    return labels, f"GPU {place['gpu']}" if "gpu" in place else next(iter(place.values()))


def series_of(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


#: Read from the rules, independently of the generator.
RULES = [
    (rule["alert"], rule["labels"]["severity"], rule["annotations"]["summary"])
    for file in sorted(facts.ALERT_RULES.glob("*.yml"))
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if rule["labels"]["severity"] != "none"
]


def test_every_alert_has_its_headline_and_its_sentence(tmp_path: Path) -> None:
    """Warnings and critical alerts make the verdict; each alert says its summary, in the colour of its severity."""
    cases = []
    colors = {"critical": style.ALARM, "warning": style.WARN, "info": style.IDLE}
    (mappings,) = (
        m["options"] for m in panel("What is wrong")["fieldConfig"]["defaults"]["mappings"] if m["type"] == "value"
    )
    summaries = {(m["text"], m["color"]): int(number) for number, m in mappings.items()}
    for name, severity, summary in RULES:
        (alert,) = (a for a in facts.alerts() if (a.name, a.severity) == (name, severity))
        labels, where = labels_of(alert)
        number = summaries[summary, colors[severity]]
        made_up = {**WATCHDOG, **a_run("a", TRAINING), series_of("ALERTS", labels): ALWAYS}
        if severity == "info":
            cases.append(
                Case(
                    expr("Verdict"), made_up, {'{__name__="run:llm_training_state:number",run="a",where="a"}': TRAINING}
                )
            )
        else:
            cases.append(Case(expr("Verdict"), made_up, {series_of("", {"alertname": name, "where": where}): number}))
            assert len(text_of("Verdict", number)) <= 24, "must be read from four metres"
        del labels["alertstate"]
        since = {series_of("ALERTS_FOR_STATE", labels): f"420x{SAMPLES}"}  # at 10m: for three minutes
        told = {"alertname": name, "where": where, "age": "for 3 min", "told": f"{where}, for 3 min"}
        cases.append(Case(expr("What is wrong"), {**made_up, **since}, {series_of("", told): number}))
    check(cases, tmp_path)
    assert len({number for case in cases for number in case.expected.values()}) == len(RULES) + 1


def test_hours_are_told_as_hours(tmp_path: Path) -> None:
    labels = {"alertname": "LossRising", "severity": "warning", "run": "a"}
    series = {
        series_of("ALERTS", {**labels, "alertstate": "firing"}): ALWAYS,
        series_of("ALERTS_FOR_STATE", labels): f"-10500x{SAMPLES}",  # at 10m: 11,100 s
    }
    query = f"max by (told) ({expr('What is wrong')})"
    check(
        [
            Case(
                query,
                series,
                {
                    '{told="a, for 3 h"}': next(
                        n for n, a in verdict.numbered().items() if (a.name, a.severity) == ("LossRising", "warning")
                    )
                },
            )
        ],
        tmp_path,
    )


def test_the_worst_alert_is_the_verdict(tmp_path: Path) -> None:
    firing = [
        ("LossRising", "critical"),
        ("LossRising", "warning"),
        ("ValidationGap", "warning"),
        ("LossSpike", "info"),
    ]
    series = {
        series_of("ALERTS", {"alertname": n, "severity": s, "alertstate": "firing", "run": "a"}): ALWAYS
        for n, s in firing
    }
    query = f"max(({expr('Verdict')}))"
    number = next(n for n, a in verdict.numbered().items() if (a.name, a.severity) == ("LossRising", "critical"))
    check([Case(query, {**WATCHDOG, **series}, {"{}": number})], tmp_path)
    order = [verdict.numbered()[n].severity for n in sorted(verdict.numbered(), reverse=True)]
    assert order == sorted(order, key=["critical", "warning", "info"].index)


@pytest.mark.parametrize(
    "title", ["Training loss", "Validation loss", "Perplexity", "Learning rate", "Tokens per second", "GPU memory"]
)
def test_tiles_take_the_colour_of_their_alerts(title: str, tmp_path: Path) -> None:
    """Each alert that the tile's description names turns it to its severity's colour, and no other alert does."""
    metric = next(iter(facts.metrics_in(expr(title))))
    base = {**WATCHDOG, **a_run("a", TRAINING)}
    labels: dict[str, str] = {"run": "a"}
    if title == "GPU memory":
        base[f'{metric}{{gpu="0",uuid="u"}}'] = f"5x{SAMPLES}"
        labels = {}
    else:
        base[f'{metric}{{run="a"}}'] = f"5x{SAMPLES}"
    named = set(re.findall(r"(\w+) \((critical|warning)\)", panel(title)["description"]))
    assert named
    cases = []
    for name, severity, _ in RULES:
        (alert,) = (a for a in facts.alerts() if (a.name, a.severity) == (name, severity))
        tone = severity if (name, severity) in named else "well"
        series = {**base, series_of("ALERTS", labels_of(alert)[0]): ALWAYS}
        cases.append(Case(expr(title), series, {series_of("", {**labels, "tone": tone}): 5}))
    unguarded = {name: values for name, values in base.items() if name not in WATCHDOG}
    cases.append(Case(expr(title), unguarded, {series_of("", {**labels, "tone": "past"}): 5}))
    check(cases, tmp_path)


# -- how it looks -----------------------------------------------------------------------------------------------------


def test_it_fits_the_screen() -> None:
    """Grafana's rows are 38 pixels apart; with its bar (56 pixels) and its padding all stays within 1080."""
    assert all(p["type"] != "row" for p in WALL["panels"])
    bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in WALL["panels"])
    assert bottom * 38 - 8 + 2 * 16 + 56 <= 1080
    covered = sum(p["gridPos"]["w"] * p["gridPos"]["h"] for p in WALL["panels"])
    assert covered == 24 * bottom, "no hole"


def test_texts_of_tiles_grow_with_the_screen() -> None:
    """But for the sentences: three of them, of any length, must fit."""
    fixed = [p["title"] for p in panels(WALL) if p["type"] == "stat" and p["options"]["text"]]
    assert fixed == ["What is wrong"]


def test_states_are_numbered_as_in_the_exporter() -> None:
    rules = yaml.safe_load((facts.RECORDING_RULES / "training.yml").read_text(encoding="utf-8"))
    (rule,) = (r for g in rules["groups"] for r in g["rules"] if r["record"] == "run:llm_training_state:number")
    numbered = re.findall(r'(\d+) \* \(llm_training_state\{state="(\w+)"\} == 1\)', rule["expr"])
    assert [(int(number), name) for number, name in numbered] == list(enumerate(STATES, 1))
