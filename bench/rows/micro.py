"""What single functions cost, by bench/micro."""

import re
import subprocess

from rig import ROOT

MANIFEST = ["--manifest-path", "bench/micro/Cargo.toml"]
# Shared with the service's build: what both depend on is built once.
BUILD = [*MANIFEST, "--target-dir", "target"]
PROGRAM = ROOT / "target/release/bench-micro"
NANOSECONDS = {"ps": 1e-3, "ns": 1, "µs": 1e3, "ms": 1e6}


def micro(stage):
    """The median of each function, round by round."""
    rounds = [medians() for _ in range(stage.rounds)]
    for name in rounds[0]:
        stage.table.value(f"`{name}`", [one[name] for one in rounds], None, "{:,.1f}", " ns")


def medians():
    """By divan's table: name, fastest, slowest, median, mean, samples, iterations."""
    done = subprocess.run([PROGRAM, "--bench"], capture_output=True, text=True, check=True)
    found = {}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        median = re.fullmatch(r"([0-9.]+) (ps|ns|µs|ms)", cells[-4]) if len(cells) >= 6 else None
        if median:
            found[re.sub(r"^[^A-Za-z]*", "", line).split()[0]] = float(median[1]) * NANOSECONDS[median[2]]
    return found
