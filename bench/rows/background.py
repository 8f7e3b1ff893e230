"""Checks and PUTs while an export runs, beside the same without one."""

import contextlib
import subprocess
import threading

import rig
from rows.audit import trail
from rows.overload import load
from rows.stage import in_turn
from rows.table import at_most

# Requests a second that leave most of the processors free.
RATES = {"permission checks": ("check=1", 5000), "PUT": ("write=1", 500)}
CONNECTIONS = 32


def background(stage):
    """The 99th percentile at a steady rate. The export is of the whole trail, over and over, by a reader who takes all at
    once."""
    service = trail(stage)
    load(stage, service, "write=1", 100, CONNECTIONS)
    for what, (mix, rate) in RATES.items():

        def late():
            return load(stage, service, mix, rate, CONNECTIONS)["p99_us"] / 1000

        def late_beside_an_export():
            with exporting(service):
                return late()

        seen = in_turn(stage.rounds, {"alone": late, "export": late_beside_an_export})
        stage.table.compare(f"{what}, {rate:,}/s, p99 while an export runs; ceiling: without it", seen["alone"],
                            seen["export"], at_most(1.5), "{:.1f}", " ms")


@contextlib.contextmanager
def exporting(service):
    """An export that begins again when it is at its end."""
    words = [rig.DRIVER, "download", "--address", service.address, "--key-file", service.home / "operator.key",
             "--path", "/v1/audit", "--accept", "text/csv"]
    stop, failed = threading.Event(), []

    def go_on():
        while not stop.is_set():
            process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while process.poll() is None and not stop.wait(0.01):
                pass
            if process.poll() is None:
                process.kill()
            elif process.returncode != 0:
                failed.append(process.stderr.read()[-300:])
                stop.set()
            process.wait()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise RuntimeError(f"an export failed: {failed[0]}")
