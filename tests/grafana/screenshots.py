"""`make screenshots`: pictures of the dashboards for README and docs, from real runs, into docs/images.

Drawn by shared/dashboard-preview, Grafana's own components without a Grafana: PREVIEW is its folder (a copy, where
`./setup` has been run). The runs are recorded once, into .screenshots/; `--fresh` records new ones.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import scenes
import yaml
from grafana_files import DASHBOARD_FILES
from PIL import Image
from scenes import Scene

from training_exporter.stack import binaries
from training_exporter.stack.errors import StackError
from training_exporter.stack.servers import Stack, free_port

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".screenshots"
IMAGES = ROOT / "docs" / "images"
PREVIEW = Path(os.environ.get("PREVIEW") or ROOT.parent / "shared" / "dashboard-preview")

#: No picture: the preview draws no panels of type `trend`.
UNDRAWN = {"compare"}
#: Dashboards of what a run leaves: at its end. The others: in its middle.
AT_THE_END = {"text"}
#: Of a picture: so it stays small, and looks as it is.
COLORS = 128


def draw(url: str, dashboard: Path, scene: Scene, out: Path, options: tuple[str, ...] = ()) -> None:
    """One picture of a dashboard at a moment. Raises StackError with what `render` said."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        command = [
            PREVIEW / "render",
            "--dashboard",
            dashboard,
            "--prometheus",
            url,
            "--out",
            raw,
            "--scrape-interval",
            "5s",
        ]
        command += ["--from", f"{scene.since:.0f}", "--to", f"{scene.at:.0f}", "--timezone", "utc", *options]
        if scene.run and dashboard.stem != "wall":
            command += ["--var", f"run={scene.run}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not raw.is_file():
            raise StackError(f"{PREVIEW} drew nothing:\n{(done.stderr or done.stdout)[-2000:]}")
        with Image.open(raw) as image:
            few = image.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, 3, dither=Image.Dither.NONE)
            few.save(out, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where something that is needed is missing or went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="record new runs first")
    parser.add_argument("--to", type=Path, default=IMAGES, metavar="DIR", help="where the pictures go (%(default)s)")
    parser.add_argument("--only", metavar="NAME", help="this dashboard alone")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="more options of dashboard-preview's render")
    parsed = parser.parse_args(arguments)
    try:
        if not (PREVIEW / "dist" / "page.js").is_file():
            raise StackError(f"{PREVIEW}: no dashboard-preview that is set up; PREVIEW must name the folder of one, "
                             "in which ./setup has been run")  # fmt: skip
        recorded = [] if parsed.fresh else scenes.read(FOLDER)
        recorded = recorded or scenes.record(FOLDER, print)
        parsed.to.mkdir(parents=True, exist_ok=True)
        with Stack(FOLDER / "logs") as stack:
            url = _serve(stack)
            for dashboard in _pictured(parsed.only):
                for scene in recorded:
                    if dashboard.stem == "wall":
                        out = parsed.to / f"wall-{scene.name}.png"
                    elif scene.name == ("finished" if dashboard.stem in AT_THE_END else "healthy"):
                        out = parsed.to / f"{dashboard.stem}.png"
                    else:
                        continue
                    draw(url, dashboard, scene, out, tuple(parsed.options))
                    print(f"{out}  {out.stat().st_size / 1000:.0f} kB")
    except (StackError, AssertionError) as error:  # the latter: what was waited for did not happen
        print(f"screenshots.py: {error}", file=sys.stderr)
        return 2
    return 0


def _pictured(only: str | None) -> list[Path]:
    return [file for file in DASHBOARD_FILES if only in (None, file.stem) and file.stem not in UNDRAWN]


def _serve(stack: Stack) -> str:
    """A Prometheus that answers from the recorded data, and scrapes and judges nothing."""
    port = free_port(0)
    config = FOLDER / "serve.yml"
    config.write_text(yaml.safe_dump({"scrape_configs": []}), encoding="utf-8")
    program = binaries.require((binaries.PROMETHEUS,))["prometheus"]
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={FOLDER / 'data'}"]
    command += ["--storage.tsdb.retention.time=10y", f"--web.listen-address=127.0.0.1:{port}"]
    child = stack.start("serve", command, url=f"http://127.0.0.1:{port}")
    child.wait_ready("/-/ready")
    return child.url


if __name__ == "__main__":
    sys.exit(main())
