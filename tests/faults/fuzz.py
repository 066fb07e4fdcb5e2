"""`make fuzz`: a coverage-guided fuzzer (atheris) over all readers, for SECONDS each (default 60).

It begins with a whole file of each kind and keeps what takes it further in .fuzz/. What it breaks a reader with is
written into tests/faults/seeds/<reader>/, where `test_what_has_broken_a_reader_stays_mended` tries it ever after.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

#: Bytes of an input: enough for a few lines, few enough for thousands of inputs a second.
MOST_BYTES = 4096
ROOT = Path(__file__).parents[2]


def fuzz(kind: str, seconds: int) -> None:
    """Fuzz one reader; ends the process, with status 0 where nothing was found."""
    import atheris

    with atheris.instrument_imports(include=["training_exporter"]):
        import any_files

    corpus, found = ROOT / ".fuzz" / kind, any_files.SEEDS / kind
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    (corpus / "whole").write_bytes(any_files.SAMPLES[kind])
    work = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    options = [
        f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", f"-artifact_prefix={found}/", "-rss_limit_mb=2048",
        "-timeout=20", "-print_final_stats=1", "-verbosity=0", str(corpus), str(found),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], lambda data: any_files.check(kind, data, work))
    atheris.Fuzz()


def main() -> int:
    seconds = int(os.environ.get("SECONDS_EACH", "60"))
    sys.path.insert(0, str(Path(__file__).parent))
    if len(sys.argv) > 1:
        fuzz(sys.argv[1], seconds)
    import any_files

    failed = []
    for kind in any_files.SAMPLES:
        print(f"fuzz: {kind} for {seconds} s", flush=True)
        if subprocess.run([sys.executable, __file__, kind], check=False).returncode:
            failed.append(kind)
    print(f"fuzz: found something in {', '.join(failed)}: see {any_files.SEEDS}" if failed else "fuzz: nothing found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
