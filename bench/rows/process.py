"""What the process itself costs: memory for each customer, and its start."""

import re
import time

from rig import Service, free_address
from rows.stage import per_second
from rows.table import Unmeasured, at_most

MEMORY = at_most(120, " bytes")


def memory(stage):
    """Of a service started just now: what all customers add, by the kernel and by the service's own word."""
    service = stage.service()
    # Its memory is as large as its bound: what is measured is a full one.
    flags, service.flags = service.flags, (*service.flags, "--cache-customers", str(stage.customers))
    grown, told = [], []
    for _ in range(stage.rounds):
        service.stop()
        service.start()
        # Connections and buffers have what they need before: the same few customers, many times.
        per_second(service.drive("read", customers=stage.listed("few", 0, 1000), callers=4, batch=1000, seconds=1))
        before = service.status("VmRSS")
        stage.warm(service)
        # The gauges are set every five seconds.
        time.sleep(6)
        metrics = service.get("/metrics")[1]
        held = metric(metrics, "consentd_cache_customers")
        if not held:
            raise Unmeasured("the service keeps no customers in memory (no consentd_cache_customers in /metrics)")
        grown.append((service.status("VmRSS") - before) / held)
        told.append((metric(metrics, "consentd_cache_bytes") or 0) / held)
    name = f"memory for each customer held, {stage.customers:,} customers"
    service.stop()
    service.flags = flags
    service.start()
    stage.table.value(f"{name}, by the kernel", grown, MEMORY, "{:.0f}", " bytes")
    stage.table.value(f"{name}, by consentd_cache_bytes", told, MEMORY, "{:.0f}", " bytes")


def metric(text, name):
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", text, re.MULTILINE)
    return sum(map(float, found)) if found else None


def start(stage):
    """From the start of the process until it is ready: on a database that is there, and with one of its own."""
    service = stage.service()
    times = []
    for _ in range(2 * stage.rounds):
        service.stop()
        times.append(service.launch("--no-migrate", *service.place()) * 1000)
    stage.table.value(f"start to ready, a database of {stage.customers:,} customers", times, at_most(150, " ms"), "{:.0f}",
                      " ms")
    first, again = [], []
    for turn in range(stage.rounds):
        own = stage.keep(Embedded(stage.cluster, f"embedded-{turn}"))
        first.append(own.begin())
        own.stop()
        again.append(own.begin())
        own.stop()
    stage.table.value("start to ready with the embedded database, first time", first, at_most(5, " s"), unit=" s")
    stage.table.value("start to ready with the embedded database, again", again, at_most(5, " s"), unit=" s")


class Embedded(Service):
    """A service with its own private PostgreSQL."""

    def __init__(self, cluster, name):
        super().__init__(cluster, None, name=name)
        self.data = self.home / "data"

    def begin(self):
        self.address = free_address()
        return self.launch("--data-dir", str(self.data))
