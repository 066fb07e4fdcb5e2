"""What the dashboards share: their addresses, the links among them, and the variables in their bars.

All have the tag TAG, and each shows links to the others, which keep the time range and the run.
"""

from __future__ import annotations

from dataclasses import replace

from generator import facts
from generator.model import Json, Variable, query_variable
from generator.queries import RUN, started

TAG = "llm-training"

#: Their uids, by what they are called here: part of links in messages and bookmarks, so none ever changes.
#: The alerts link to `llm-training`, the run in detail.
WALL = "llm-training-wall"
RUN_DETAIL = "llm-training"
COMPARE = "llm-training-compare"
GPU = "llm-training-gpu"
TEXT_QUALITY = "llm-training-text"
MONITORING = "llm-training-monitoring"

DATA_SOURCE = Variable(
    "datasource",
    "Data source",
    "datasource",
    "prometheus",
    options={"current": {"text": "Prometheus", "value": "prometheus"}, "regex": "", "multi": False},
)

#: The newest run first, and so the one that is shown unless the URL names another.
ONE_RUN = query_variable("run", "Run", f"query_result(sort_desc({started('')}))", '/run="([^"]+)"/')

#: On dashboards that are not about a run: hidden, so that links to the others keep it.
KEPT_RUN = replace(ONE_RUN, hidden=True)

#: When it started, in milliseconds: for a link to the whole of it.
STARTED = query_variable(
    "started", "Started", f"query_result(round(1000 * {started(RUN)}))", r"/\} (\S+) /", hidden=True
)


def runs(label: str, all_means: str) -> Variable:
    """A choice of runs, all at first, for selectors with `run=~"$runs"`; `all_means` is what that choice is called.

    Not called `run`: a link would pass "all" on to the variable of one run, which matches none with it.
    """
    base = query_variable("runs", label, ONE_RUN.query["query"], '/run="([^"]+)"/')
    options: Json = {
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": [all_means], "value": ["$__all"]},
    }
    return replace(base, options={**base.options, **options})


def runbooks() -> Variable:
    """Where the runbooks are: links of panels and rows begin with `${runbooks}/`. The demo's URL overrides it."""
    url = facts.runbooks_url()
    return Variable(
        "runbooks", "Runbooks", "textbox", url, hidden=True, options={"current": {"text": url, "value": url}}
    )


#: The other dashboards, with this time range and these variables.
RELATED: Json = {
    "type": "dashboards",
    "title": "Dashboards",
    "tags": [TAG],
    "asDropdown": False,
    "icon": "external link",
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
}


def whole_run(uid: str) -> Json:
    """A link to dashboard `uid` over the whole of the run that is chosen; needs the variables ONE_RUN and STARTED."""
    return {
        "type": "link",
        "title": "Whole run",
        "tooltip": "From the start of this run until now",
        "icon": "dashboard",
        "url": f"/d/{uid}?var-run=${{run}}&from=${{started}}&to=now",
        "targetBlank": False,
    }
