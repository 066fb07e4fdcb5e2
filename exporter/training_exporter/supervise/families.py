"""The table of a supervised command's process families; see training_exporter.families for how a table is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training_exporter.families import Family

if TYPE_CHECKING:
    from training_exporter.supervise.tree import ProcessFigures

PROCESS_FAMILIES: tuple[Family[ProcessFigures], ...] = (
    Family(
        "llm_training_process_start_timestamp_seconds",
        "gauge",
        "When the command was started, in Unix seconds.",
        lambda f: f.started,
    ),
    Family(
        "llm_training_processes",
        "gauge",
        "Processes of the command: itself and all below it.",
        lambda f: f.processes,
    ),
    Family(
        "llm_training_process_resident_memory_bytes",
        "gauge",
        "Host memory of all these processes; a page that several of them share counts in each.",
        lambda f: f.resident_memory,
    ),
    Family(
        "llm_training_process_cpu_seconds_total",
        "counter",
        "Processor time of all these processes, user and system.",
        lambda f: f.cpu_seconds,
    ),
    Family(
        "llm_training_process_gpu_memory_bytes",
        "gauge",
        "GPU memory of all these processes, by device.",
        lambda f: f.gpu_memory,
        ("gpu", "uuid"),
    ),
    Family(
        "llm_training_process_exit_status",
        "gauge",
        "Exit status of the command, once it has ended; 128 + n where signal n has ended it.",
        lambda f: f.exit_status,
    ),
)
