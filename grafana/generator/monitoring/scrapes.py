"""Whether Prometheus reads the exporters, and what they say about themselves."""

from __future__ import annotations

import yaml

from generator import facts
from generator.facts import GeneratorError
from generator.model import Panel, Target
from generator.monitoring.common import EVENTS, NO_EXPORTER, NO_PROMETHEUS, increase
from generator.panels import joined, timeline
from generator.style import (
    ACT,
    GOOD,
    LOOK,
    MAIN,
    REFERENCE,
    SECOND,
    THIRD,
    Grid,
    chart,
    column,
    line,
    words,
)


def targets(id: int, grid: Grid) -> Panel:
    by = "max by (job, instance)"
    return joined(
        id,
        "Targets",
        "What Prometheus scrapes now. Good: all up, answering in a small part of the interval. A run's exporter leaves "
        "when the run ends in good order.",
        [
            Target(f"{by} (up)", table=True),
            Target(f"{by} (scrape_duration_seconds)", table=True),
            Target(f"{by} (scrape_samples_scraped)", table=True),
            Target(
                "topk by (job, instance) (1, max by (job, instance, run) "
                "(last_over_time(llm_training_start_timestamp_seconds[$__range]))) and on (job, instance) up",
                table=True,
            ),
        ],
        grid,
        no_value="nothing is scraped",
        columns={
            "Value #A": "State",
            "job": "Job",
            "instance": "Address",
            "run": "Run",
            "Value #B": "Scrape takes",
            "Value #C": "Samples",
        },
        overrides=[
            column(
                "State",
                custom__width=70,
                custom__cellOptions={"type": "color-background", "mode": "basic"},
                mappings=[words({"1": ("up", GOOD), "0": ("down", ACT)})],
            ),
            column("Job", custom__width=110),
            column("Address", custom__minWidth=130),
            column("Run", custom__minWidth=130, noValue=""),
            column("Scrape takes", unit="s", decimals=1, custom__width=110),
            column("Samples", unit="locale", decimals=0, custom__width=80),
        ],
        sort=("State", False),
    )


def discovered(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Targets found and up",
        "Runs and GPUs announce themselves in files that Prometheus watches (file_sd). Good: as many are up as found.",
        [
            Target(
                'sum by (config) (prometheus_sd_discovered_targets{name="scrape"})',
                "found: {{config}}",
                properties={"custom.lineStyle": {"fill": "dash", "dash": [8, 6]}},
            ),
            Target("sum by (job) (up)", "up: {{job}}"),
        ],
        grid,
        no_value=NO_PROMETHEUS,
        decimals=0,
        min=0,
    )


def scrape_duration(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Scrape duration",
        "Of the slowest target of each job, and the interval (dashed). Good: a small part of it.",
        [
            Target("max by (job) (scrape_duration_seconds)", "{{job}}"),
            Target(
                'max(prometheus_target_interval_length_seconds{quantile="0.5"})',
                "interval",
                properties=line(REFERENCE, 1, dash=True),
            ),
        ],
        grid,
        no_value="nothing is scraped",
        unit="s",
        decimals=1,
        custom={"scaleDistribution": {"type": "log", "log": 10}},
    )


def samples(id: int, grid: Grid) -> Panel:
    limit = _scrape_config("training").get("sample_limit")
    if not isinstance(limit, int):
        raise GeneratorError(
            f"{facts.PROMETHEUS_CONFIG}: job training: found sample_limit {limit!r}, allowed: a number"
        )
    return chart(
        id,
        "Samples per scrape",
        f"Of the largest target of each job. A target of the job training with more than {limit} (dashed) loses its "
        "scrape. Good: far below.",
        [
            Target("max by (job) (scrape_samples_scraped)", "{{job}}"),
            Target(f"{limit} + 0 * max(up)", "limit of training", properties=line(ACT, 1, dash=True)),
        ],
        grid,
        no_value="nothing is scraped",
        unit="locale",
        decimals=0,
        custom={"scaleDistribution": {"type": "log", "log": 10}},
    )


def _scrape_config(job: str) -> dict[str, object]:
    config = yaml.safe_load(facts.PROMETHEUS_CONFIG.read_text(encoding="utf-8"))
    return next((dict(each) for each in config["scrape_configs"] if each["job_name"] == job), {})


def rejected(id: int, grid: Grid) -> Panel:
    scrapes, pool = "prometheus_target_scrapes_", "prometheus_target_scrape_pool_"
    over_a_limit = (
        f"{scrapes}exceeded_sample_limit_total",
        f"{scrapes}exceeded_body_size_limit_total",
        f"{pool}exceeded_label_limits_total",
        f"{pool}exceeded_target_limit_total",
    )
    return chart(
        id,
        "Scrapes and samples refused",
        "What Prometheus did not take: scrapes over a limit of prometheus.yml (samples, size of the page, labels, "
        "targets); samples that are there twice, because two targets have the same labels, or late; target files that "
        "it could not read. Good: 0.",
        [
            Target(increase(*over_a_limit), "over a limit", properties=line(ACT)),
            Target(increase(f"{scrapes}sample_duplicate_timestamp_total"), "twice", properties=line(LOOK)),
            Target(increase(f"{scrapes}sample_out_of_order_total"), "late", properties=line(MAIN)),
            Target(
                increase("prometheus_sd_file_read_errors_total"),
                "unreadable target files",
                properties=line(THIRD),
            ),
        ],
        grid,
        no_value=NO_PROMETHEUS,
        **EVENTS,
    )


def parts(id: int, grid: Grid) -> Panel:
    return timeline(
        id,
        "What works",
        "Whether the configurations were taken, and each part of the exporters' pages could be read. Good: all.",
        [
            Target("min(prometheus_config_last_reload_successful)", "Prometheus' configuration"),
            Target("min(alertmanager_config_last_reload_successful)", "Alertmanager's configuration"),
            Target("min by (collector) (training_exporter_collector_success)", "exporters: {{collector}}"),
        ],
        grid,
        no_value="nothing is scraped",
        mappings=[words({"1": ("works", GOOD), "0": ("fails", ACT)})],
    )


def exporters(id: int, grid: Grid) -> Panel:
    nothing = "0 * max(training_exporter_build_info)"
    return chart(
        id,
        "Exporter errors by place",
        "Errors of the monitoring that were kept from the training, by where they arose, and events that the journal "
        "lost or its disk does not take; since the process started. Good: 0.",
        [
            Target(
                f"sum by (hook) (max_over_time(training_exporter_callback_errors_total[$__interval])) or {nothing}",
                "errors {{hook}}",
                properties=line(ACT),
            ),
            Target(
                "sum(max_over_time(training_exporter_journal_dropped_events_total[$__interval]))",
                "journal: events lost",
                properties=line(SECOND),
            ),
            Target(
                "sum(max_over_time(training_exporter_journal_waiting_events[$__interval]))",
                "journal: events waiting for the disk",
                properties=line(LOOK),
            ),
        ],
        grid,
        no_value=NO_EXPORTER,
        runbooks=["JournalNotWritten"],
        **EVENTS,
    )


def storage(id: int, grid: Grid) -> Panel:
    return chart(
        id,
        "Prometheus' storage",
        "Series in memory (left) and bytes on disk (right). Good: grows with the runs, and stops growing.",
        [
            Target("sum(prometheus_tsdb_head_series)", "series", properties=line(MAIN)),
            Target(
                "sum(prometheus_tsdb_storage_blocks_bytes)",
                "blocks on disk",
                properties=line(SECOND, unit="bytes", **{"custom.axisPlacement": "right"}),
            ),
        ],
        grid,
        no_value=NO_PROMETHEUS,
        unit="locale",
        decimals=0,
        min=0,
    )
