"""Queries that several panels share. `$run` is the dashboard's variable: one run, by name."""

from __future__ import annotations

from collections.abc import Sequence

from training_exporter.events import STATES

RUN = '{run="$run"}'

#: What the state tile shows for a run that was at work and can no longer be scraped; states count from 1.
NO_ANSWER = len(STATES) + 1


def of_run(metric: str) -> str:
    """The run's figure, whichever process serves it: a run resumed at another address keeps one line."""
    return f"max by (run) ({metric}{RUN})"


def at_evaluations(metric: str) -> str:
    """A figure of the evaluations at the moments when it was new: a line through them, not stairs that come late."""
    now, before = of_run(metric), of_run(metric).replace(RUN, f"{RUN} offset $__interval")
    return f"{now} unless {before} == {now}"


def state() -> str:
    """The place of the run's state in STATES, from 1, or NO_ANSWER."""
    numbered = " or ".join(
        f'{number} * llm_training_state{{run="$run",state="{name}"}}' for number, name in enumerate(STATES, 1)
    )
    # A run that was at work and is no longer there has not ended: it has vanished.
    return (
        f"max by (run) ({numbered}) or "
        f"{NO_ANSWER} * (max by (run) (last_over_time(run:llm_training_state:active{RUN}[1h])) == 1)"
    )


def settings(labels: tuple[str, ...]) -> str:
    """The run's settings, also after its end; of several (resumed with others) those seen last."""
    return (
        f"topk(1, max by ({', '.join(labels)}) "
        f"(last_over_time(timestamp(llm_training_run_info{RUN})[$__range:$__interval])))"
    )


def where(series: str) -> str:
    """The series with a label `where`: their run, else GPU, else target, whichever there is."""
    for label, text in (("instance", "$1"), ("gpu", "GPU $1"), ("run", "$1")):  # the last one that exists counts
        series = f'label_replace({series}, "where", "{text}", "{label}", "(.+)")'
    return series


#: Alerts of the dashboard's run, and those that are of no run: of GPUs and targets.
OF_THIS_RUN = (',run="$run"', ',run=""')


def firing(of: Sequence[str] = ("",)) -> str:
    """What fires, one row per alert: alertname, severity, what (name/severity), where; since when, in milliseconds.

    `of`: more matchers, with a comma before; an alert that one of them matches is listed. As in the messages, a
    critical alert mutes the warning of the same name; critical ones come first.
    """

    def listed(series: str) -> str:
        what = f'label_join({where(series)}, "what", "/", "alertname", "severity")'
        return f"max by (alertname, severity, what, where) ({what})"

    def since(severity: str) -> str:
        series = " or ".join(f'ALERTS{{alertstate="firing",severity{severity}{more}}}' for more in of)
        return f"1000 * {listed(f'ALERTS_FOR_STATE and ignoring (alertstate) ({series})')}"

    # Nothing fires: the Watchdog, which always does, vouches for it. 0, because its time of start means nothing here.
    critical, others = since('="critical"'), since('!~"critical|none"')
    watchdog = listed('ALERTS_FOR_STATE{alertname="Watchdog"}')
    return f"{critical} or on (alertname, where) {others} or on () 0 * {watchdog}"


def per_step(total: str) -> str:
    """Mean per optimizer step of a counter of seconds, over the last few scrapes."""
    steps = "llm_training_step_duration_seconds_count"
    window = f"{RUN}[$__rate_interval]"
    return f"sum by (run) (rate({total}{window})) / sum by (run) (rate({steps}{window}))"


def started(selector: str) -> str:
    """When each run that was there in the time range started, in Unix seconds."""
    return f"max by (run) (last_over_time(llm_training_start_timestamp_seconds{selector}[$__range]))"
