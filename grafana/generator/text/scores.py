"""The scores, by criterion and stage, against what the run's profile expects."""

from __future__ import annotations

from generator import facts
from generator.model import Json, Panel, Target
from generator.panels import joined
from generator.queries import RUN
from generator.run.limits import limit
from generator.style import FINE, GOOD, LOOK, MAIN, WARN, Grid, chart, column, fixed, tile, words
from generator.text import guide
from training_exporter.events import TEXT_STAGES

NOT_YET = "no text scored yet"

#: The last scores in the time range, also of a run that has ended.
LATEST = f"last_over_time(run:llm_training_text_quality:latest{RUN}[$__range])"
SHORTFALL = f"last_over_time(run:llm_training_text_quality:shortfall{RUN}[$__range])"


def least() -> float:
    """The shortfall above which TextQuality fires."""
    return facts.threshold("TextQuality", "warning", "run:llm_training_text_quality:shortfall")


def _of(stage: str) -> str:
    return f'last_over_time(run:llm_training_text_quality:latest{{run="$run",stage="{stage}"}}[$__range])'


def _of_last_stage(expr: str) -> str:
    """Without what `last_over_time` remembers of stages before the last one."""
    reached = " or on () ".join(f"group by (stage) ({_of(name)})" for name in reversed(TEXT_STAGES))
    return f"({expr} and on (stage) ({reached}))"


def stage(id: int, grid: Grid) -> Panel:
    last = " or ".join(f"{number} * group({_of(name)})" for number, name in reversed(list(enumerate(TEXT_STAGES, 1))))
    return tile(
        id,
        "Last scored",
        "The last stage whose texts were scored: about 20% of the run, half, the end. Good: as far as the run is.",
        [Target(last, instant=True)],
        grid,
        no_value=NOT_YET,
        color=fixed(MAIN),
        graph=False,
        value_size=28,
        mappings=[words({str(n): (guide.stage_title(name), MAIN) for n, name in enumerate(TEXT_STAGES, 1)})],
    )


def too_low(id: int, grid: Grid) -> Panel:
    low = _of_last_stage(SHORTFALL)
    return tile(
        id,
        "Criteria below expectation",
        f"Those of the last stage that are more than {least():g} below what the run's profile expects: TextQuality "
        "fires where there is one. Good: 0.",
        [Target(f"count({low} > {least():g}) or 0 * count({low})", instant=True)],
        grid,
        no_value=NOT_YET,
        color_mode="background_solid",
        graph=False,
        value_size=32,
        decimals=0,
        mappings=[
            words({"0": ("none", FINE)}),
            {"type": "range", "options": {"from": 1, "to": None, "result": {"color": WARN, "index": 3}}},
        ],
        runbooks=["TextQuality"],
    )


def weakest(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Furthest below",
        "The criterion of the last stage that is furthest below its expectation, or least above it. Good: not below 0.",
        [Target(f"topk(1, {_of_last_stage(SHORTFALL)}) * -1", "{{criterion}}", instant=True)],
        grid,
        no_value=NOT_YET,
        color=fixed(MAIN),
        graph=False,
        names=True,
        value_size=28,
        decimals=2,
    )


def mean(id: int, grid: Grid) -> Panel:
    return tile(
        id,
        "Mean score",
        "Of all criteria of the last stage, 0 to 1. Good: rises from stage to stage.",
        [Target(f"avg({_of_last_stage(LATEST)})", instant=True)],
        grid,
        no_value=NOT_YET,
        color=fixed(MAIN),
        graph=False,
        value_size=28,
        decimals=2,
    )


def table(id: int, grid: Grid) -> Panel:
    def scores(metric: str, stage: str, more: str = "") -> Target:
        selector = f'{metric}{{run="$run",stage="{stage}"{more}}}'
        return Target(f"max by (criterion) (last_over_time({selector}[$__range]))", table=True)

    stages = {name: guide.stage_title(name).split(" ")[0] for name in TEXT_STAGES}
    targets: list[Target] = []
    columns = {"criterion": "Criterion", "Value #G": "Last stage"}
    overrides: list[Json] = []
    for place, (name, title) in enumerate(stages.items()):
        targets += [
            scores("llm_training_text_quality_ratio", name),
            scores("llm_training_expected_text_quality_ratio", name, ',bound="lower"'),
        ]
        columns |= {f"Value #{'ACE'[place]}": title, f"Value #{'BDF'[place]}": f"{title}, at least"}
        overrides += [
            column(
                title,
                decimals=2,
                min=0,
                max=1,
                custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
                custom__width=140,
                color=fixed(MAIN),
                noValue="–",
            ),
            column(f"{title}, at least", decimals=2, custom__width=125, noValue="–"),
        ]
    verdict = f"max by (criterion) ({_of_last_stage(SHORTFALL)} > bool {least():g})"
    return joined(
        id,
        "Scores and what is expected of them",
        "0 to 1, 1 is good; means over a few texts of each stage. “At least” is what the run's profile expects: the "
        f"guide says it in words, the numbers are ours. Good: reached. TextQuality fires {least():g} below, at the "
        "last stage.",
        [*targets, Target(f'label_replace({verdict}, "measures", "$1", "criterion", "(.+)")', table=True)],
        grid,
        no_value=NOT_YET,
        columns=columns | {"measures": "Measures"},
        overrides=[
            column("Criterion", custom__width=110),
            column(
                "Measures",
                custom__minWidth=260,
                mappings=[words({name: (what, None) for name, what in guide.criteria().items()})],
            ),
            *overrides,
            column(
                "Last stage",
                custom__width=110,
                custom__cellOptions={"type": "color-text"},
                mappings=[words({"0": ("reached", GOOD), "1": ("too low", LOOK)})],
            ),
        ],
        sort=("Criterion", False),
        runbooks=["TextQuality"],
    )


def shortfall(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Below expectation, by criterion",
        "How far each score of the last stage is below what the profile expects of it; negative: above. Good: below "
        f"the dashed line. TextQuality fires above {least():g}.",
        [
            Target(f"max by (criterion) (run:llm_training_text_quality:shortfall{RUN})", "{{criterion}}"),
            limit(
                "TextQuality",
                "warning",
                f"above {least():g}",
                f"{least():g} + 0 * max by (run) (run:llm_training_text_quality:shortfall{RUN})",
            ),
        ],
        grid,
        no_value=NOT_YET,
        decimals=2,
        runbooks=["TextQuality"],
    )


def over_time(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Scores over the run, by criterion",
        "Those of the last stage at each time. Good: they rise from stage to stage.",
        [Target(f"max by (criterion) (run:llm_training_text_quality:latest{RUN})", "{{criterion}}")],
        grid,
        no_value=NOT_YET,
        decimals=2,
        min=0,
        max=1,
    )
