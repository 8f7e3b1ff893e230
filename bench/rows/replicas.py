"""How soon another replica denies what was withdrawn."""

import signal
import subprocess
import time

import rig
from rows.table import at_most

WRITES = 1000


def replicas(stage):
    """Withdrawals on one service, checked on another, idle and while others write."""
    one = stage.service()
    other = stage.new_service("speed", keys_of=one, name="other").start()
    withdrawn, written = stage.listed("withdrawn", 100, 1000), stage.listed("written", 2000, stage.customers - 2000)

    def round_of():
        return one.drive("replica", other=other.address, customers=withdrawn, seconds=3 if stage.quick else 20)

    name = "withdrawal seen on another replica"
    idle = [round_of() for _ in range(stage.rounds)]
    stage.table.value(f"{name}, idle: p50", figures(idle, "p50_ms"), unit=" ms")
    stage.table.value(f"{name}, idle: p99", figures(idle, "p99_ms"), at_most(5, " ms"), unit=" ms")
    busy, rates = [], []
    for _ in range(stage.rounds):
        writer = Writer(one, written)
        busy.append(round_of())
        rates.append(writer.stop())
    pace = f"{min(rates):,.0f} of {WRITES:,} writes/s offered went on"
    stage.table.value(f"{name}, {WRITES:,} writes/s: p50", figures(busy, "p50_ms"), at_most(2, " ms"), unit=" ms")
    stage.table.value(f"{name}, {WRITES:,} writes/s: p99", figures(busy, "p99_ms"), at_most(20, " ms"), unit=" ms")
    told = "; ".join(f"{state}, {min(figures(rounds, 'withdrawals'))} withdrawals a round and more, "
                     f"{min(figures(rounds, 'at_once'))} of them denied by the first check"
                     for state, rounds in (("idle", idle), ("with writes", busy)))
    stage.table.note(f"Replicas: {told}; {pace}, in the slowest round.")
    other.stop()
    one.drain()


def figures(rounds, name):
    return [one[name] for one in rounds]


class Writer:
    """Puts consents at a pace, for as long as it is let."""

    def __init__(self, service, customers):
        self.service = service
        self.before = self.entries()
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [rig.DRIVER, "put", "--address", service.address, "--key-file", service.home / "operator.key", "--customers",
             customers, "--callers", "64", "--seconds", "600", "--rate", str(WRITES)], stdout=subprocess.DEVNULL)
        # The first second is that of the connections.
        time.sleep(1)

    def entries(self):
        return int(self.service.cluster.sql(
            self.service.database, "select last_value from vlaapi.customer_consent_audit_audit_id_seq"))

    def stop(self):
        """Writes a second, those of the withdrawals among them."""
        rate = (self.entries() - self.before) / (time.perf_counter() - self.began)
        rig.end(self.process, signal.SIGTERM)
        return rate
