"""Writes grafana/dashboards/*.json from grafana/generator; with --check, says which files differ (exit code 1)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DASHBOARDS = HERE / "dashboards"
sys.path.insert(0, str(HERE))

from generator.compare import layout as compare  # noqa: E402
from generator.facts import GeneratorError  # noqa: E402
from generator.gpu import layout as gpu  # noqa: E402
from generator.monitoring import layout as monitoring  # noqa: E402
from generator.run import layout as run  # noqa: E402
from generator.text import layout as text  # noqa: E402
from generator.wall import layout as wall  # noqa: E402

#: File name -> the function that makes the dashboard.
FILES = {
    "compare.json": compare.dashboard,
    "gpu.json": gpu.dashboard,
    "monitoring.json": monitoring.dashboard,
    "text.json": text.dashboard,
    "training.json": run.dashboard,
    "wall.json": wall.dashboard,
}


def main(arguments: list[str] | None = None) -> int:
    """0: written, or nothing differs. 1: --check found a difference. 2: the dashboards cannot be generated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    check = parser.parse_args(arguments).check
    try:
        texts = {name: make().text() for name, make in FILES.items()}
    except GeneratorError as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return 2
    DASHBOARDS.mkdir(exist_ok=True)
    there = {file.name: file.read_text(encoding="utf-8") for file in DASHBOARDS.glob("*.json")}
    differ = sorted(name for name in {*texts, *there} if texts.get(name) != there.get(name))
    if check:
        for name in differ:
            print(f"grafana/dashboards/{name} is not what the generator makes: run `python grafana/generate.py`")
        return 1 if differ else 0
    for name in differ:
        if name in texts:
            (DASHBOARDS / name).write_text(texts[name], encoding="utf-8")
        else:
            (DASHBOARDS / name).unlink()
        print(f"grafana/dashboards/{name} {'written' if name in texts else 'removed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
