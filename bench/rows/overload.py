"""Three times more than the service carries: what it still does, and how soon it is itself again."""

import json
import subprocess
import time

import rig
from rows.stage import in_turn
from rows.table import at_least, at_most

TIMES = 3
# The calm load before and after: a part of the peak that leaves room.
CALM = 0.3
WATCHED = 10


def overload(stage):
    """The load waits for nobody while it is above the peak: each request is sent when it is due, over many connections.
    Generator, service and PostgreSQL share the processors, so that part of what is lost is the generator's."""
    service = stage.service()
    for what, mix in (("permission checks", "check=1"), ("PUT", "write=1")):
        load(stage, service, mix, "max", 64)
        seen = in_turn(stage.rounds, {"storm": lambda: storm(stage, service, mix)})["storm"]
        stage.table.compare(f"{what}: good answers at {TIMES}× what is carried at most; ceiling: at most",
                            [one["peak"] for one in seen], [one["rate"] for one in seen], at_least(0.8))
        stage.table.value(f"{what}: back to the calm before, after the storm", [one["back"] for one in seen],
                          at_most(5, " s"), unit=" s")


def storm(stage, service, mix):
    """What is carried at most, what is carried when three times as much is asked for, and after how many seconds the
    service is as it was before."""
    peak = load(stage, service, mix, "max", 64)["rate"]
    calm = load(stage, service, mix, CALM * peak, 64)
    seen = {"peak": peak, "rate": load(stage, service, mix, TIMES * peak, 512)["rate"]}
    over = time.monotonic()
    # No refusals, and no more than twice as late as before: looked at second by second.
    while time.monotonic() - over < WATCHED:
        began = time.monotonic()
        after = load(stage, service, mix, CALM * peak, 64, seconds=1)
        if not after["errors"] and after["p99_us"] <= 2 * calm["p99_us"] + 1000:
            return seen | {"back": began - over}
    return seen | {"back": float(WATCHED)}


def load(stage, service, mix, rate, connections, seconds=None):
    words = [rig.PROGRAM, "load", "--json", "--url", f"http://{service.address}", "--api-key", service.key(), "--mix", mix,
             "--rate", rate, "--connections", connections, "--duration", f"{seconds or stage.seconds}s", "--warm-up",
             "0s" if seconds else "1s", "--customers", stage.customers // 100, "--create"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if not done.stdout.startswith("{"):
        raise RuntimeError(f"consentd load: {done.stderr[-500:]}")
    row = json.loads(done.stdout)["rows"][-1]
    return {"rate": row["good_per_second"], "errors": sum(row["errors"].values()), "p99_us": row["latency_us"]["p99"]}
