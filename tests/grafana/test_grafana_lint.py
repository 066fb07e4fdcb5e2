"""The rules of Grafana's dashboard-linter, and ours on top, on the committed JSON."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
import yaml
from generator import facts, family
from grafana_files import DASHBOARD_FILES, SILENT, panels

Dashboard = dict[str, Any]

#: Rules of dashboard-linter that are not ours, and why.
NOT_APPLIED = {
    "template-job-rule": "a run is known by its label `run`, a GPU by its uuid; the same run may change its address",
    "template-instance-rule": "as above",
    "target-job-rule": "as above",
    "target-instance-rule": "as above",
}

#: Counters that tell where a run stands, and are read as they are.
PLACES = {"llm_training_steps_total"}

#: Grafana's panel types that we use; none that it has retired.
TYPES = {"stat", "timeseries", "table", "bargauge", "state-timeline", "trend", "row", "text"}


def targets(dashboard: Dashboard) -> list[tuple[Dashboard, Dashboard]]:
    return [(panel, target) for panel in panels(dashboard) for target in panel["targets"]]


def properties(panel: Dashboard, key: str) -> list[Any]:
    """All values that the panel gives a field option, by default and by override."""
    config = panel["fieldConfig"]
    overridden = [p["value"] for o in config["overrides"] for p in o["properties"] if p["id"] == key]
    return [*([config["defaults"][key]] if key in config["defaults"] else []), *overridden]


def test_identity(dashboard: Dashboard) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,40}", dashboard["uid"])
    assert "id" not in dashboard, "Grafana gives it"
    assert dashboard["title"]
    assert dashboard["schemaVersion"] == 42
    assert dashboard["editable"] is False
    assert family.TAG in dashboard["tags"]


def test_uids_and_titles_differ() -> None:
    boards = [json.loads(file.read_text(encoding="utf-8")) for file in DASHBOARD_FILES]
    for key in ("uid", "title"):
        assert len({board[key] for board in boards}) == len(boards)


def test_alerts_link_to_a_dashboard_that_exists() -> None:
    boards = {
        board["uid"]: board for board in (json.loads(file.read_text(encoding="utf-8")) for file in DASHBOARD_FILES)
    }
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(facts.ALERT_RULES.glob("*.yml")))
    linked = re.findall(r"/d/([\w-]+)(\S*)", text)
    assert linked
    for uid, rest in linked:
        assert set(re.findall(r"[?&]var-(\w+)=", rest)) <= {v["name"] for v in boards[uid]["templating"]["list"]}


def test_dashboards_lead_to_each_other(dashboard: Dashboard) -> None:
    """By their common tag, with the same time and run."""
    (links,) = (link for link in dashboard["links"] if link["type"] == "dashboards")
    assert links["tags"] == [family.TAG]
    assert links["includeVars"] is True
    assert links["keepTime"] is True
    if dashboard["uid"] == family.WALL:
        return  # it shows the newest run, and so does the run's page unless it is told another
    assert "run" in {variable["name"] for variable in dashboard["templating"]["list"]}, "else it would lose the run"


def test_a_link_never_passes_all_runs_to_a_page_of_one(dashboard: Dashboard) -> None:
    """Grafana hands "all" to the variable of the same name, and one that takes a single run matches none with it."""
    for variable in dashboard["templating"]["list"]:
        assert variable["name"] != "run" or not variable["includeAll"]


def test_links_go_where_something_is(dashboard: Dashboard) -> None:
    uids = {json.loads(file.read_text(encoding="utf-8"))["uid"] for file in DASHBOARD_FILES}
    text = json.dumps(dashboard)
    assert set(re.findall(r'"/d/([\w-]+)', text)) <= uids
    for runbook in re.findall(r"\$\{runbooks\}/(\w+)", text):
        assert (facts.ROOT / "alerts" / "runbooks" / f"{runbook}.md").is_file()


def test_no_reference_to_a_variable_that_is_not_there(dashboard: Dashboard) -> None:
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(dashboard)))
    assert used <= names


def test_thresholds_are_those_of_the_rules(dashboard: Dashboard) -> None:
    """Read independently of the generator. Which rules: those whose runbooks the panel links to, or any."""
    compared: dict[str, set[float]] = {}
    for file in sorted(facts.ALERT_RULES.glob("*.yml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                numbers = re.findall(r"(?:[<>]=?|==)\s*(\d+(?:\.\d+)?)", rule["expr"])
                compared.setdefault(rule["alert"], set()).update(map(float, numbers))
    for panel in panels(dashboard):
        named = [link["url"].rpartition("/")[2] for link in panel.get("links", ()) if "runbooks" in link["url"]]
        allowed = set().union(*(compared[name] for name in named or compared))
        for thresholds in properties(panel, "thresholds"):
            values = {step["value"] for step in thresholds["steps"]} - {None}
            assert values <= allowed, f"{panel['title']}: {values - allowed} in no rule"


def test_data_source_variable(dashboard: Dashboard) -> None:
    first = dashboard["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"], first["label"]) == (
        "datasource",
        "datasource",
        "prometheus",
        "Data source",
    )
    used = [part["datasource"] for panel, target in targets(dashboard) for part in (panel, target)]
    used += [v["datasource"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in used)


def test_query_variables_follow_the_time_range(dashboard: Dashboard) -> None:
    assert all(v["refresh"] == 2 for v in dashboard["templating"]["list"] if v["type"] == "query")


def test_ids_and_ref_ids(dashboard: Dashboard) -> None:
    ids = [panel["id"] for panel in [*dashboard["panels"], *panels(dashboard)] if panel["type"] in SILENT]
    ids += [panel["id"] for panel in panels(dashboard)]
    assert len(set(ids)) == len(ids)
    assert all(isinstance(number, int) and number > 0 for number in ids)
    for panel in panels(dashboard):
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), panel["title"]


def test_no_overlap(dashboard: Dashboard) -> None:
    for one, other in itertools.combinations([(p["title"], p["gridPos"]) for p in dashboard["panels"]], 2):
        (_, a), (_, b) = one, other
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one, other)
    assert all(0 <= p["gridPos"]["x"] <= 24 - p["gridPos"]["w"] for p in dashboard["panels"])


def test_panels_explain_themselves(dashboard: Dashboard) -> None:
    assert {panel["type"] for panel in dashboard["panels"]} <= TYPES
    for panel in panels(dashboard):
        assert panel["type"] in TYPES
        assert panel["title"]
        assert panel["targets"]
        body, _, metrics = panel["description"].rpartition("\n\nMetric: ")
        assert body
        assert re.fullmatch(r"`[\w:]+`(, `[\w:]+`)*", metrics), panel["description"]
        assert properties(panel, "noValue"), f"{panel['title']}: what it says without data"
        mapped = panel["type"] == "table" or any(
            m["type"] == "value" for mappings in properties(panel, "mappings") for m in mappings
        )
        assert mapped or properties(panel, "unit"), f"{panel['title']}: unit"


def test_queries(dashboard: Dashboard) -> None:
    for panel, target in targets(dashboard):
        expr = target["expr"]
        assert facts.metrics_in(expr), panel["title"]
        assert set(facts.metrics_in(expr)) <= facts.metrics()
        for function, ranged in re.findall(r"\b(rate|irate|increase)\([^\[]*\[([^\]]*)\]", expr):
            whole = function == "increase" and target["instant"]  # how many in the time range
            assert ranged == "$__rate_interval" or (whole and ranged == "$__range"), expr
        for counter in re.findall(r"\b\w+(?:_total|_sum|_count|_bucket)\b", expr):
            # `..._over_time`: how many so far, told as a number.
            counted = rf"\b(?:rate|irate|increase|(?:max|last)_over_time)\({counter}\b"
            assert re.search(counted, expr) or counter in PLACES, f"{counter} is a counter: {expr}"
        if not target["instant"]:
            assert len(panel["targets"]) == 1 or target["legendFormat"], f"{panel['title']} {target['refId']}: legend"


def test_the_metric_catalogue_is_complete_enough_to_mean_something() -> None:
    assert {"llm_training_loss", "llm_gpu_info", "gpu:llm_gpu_memory_used:ratio", "up"} <= facts.metrics()
    assert "llm_training_step_duration_seconds" not in facts.metrics(), "a histogram has no series of that name"


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ('max by (run) (a_total{x="b_total", y=~"}"}) or on (z) 2 * c:d:rate1m', ("a_total", "c:d:rate1m")),
        ("rate(a_sum[$__rate_interval]) / on (q) group_left (r) b_count offset 5m > bool 1e3", ("a_sum", "b_count")),
        ("topk(1, max by (a, b) (last_over_time(timestamp(c)[$__range:$__interval])))", ("c",)),
        ("sum(rate(a[5m])) by (b) unless c and ignoring (d) e", ("a", "c", "e")),
    ],
)
def test_metrics_in(expr: str, names: tuple[str, ...]) -> None:
    assert facts.metrics_in(expr) == names
