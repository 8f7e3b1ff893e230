"""Reads: from memory beside a constant and beside Redis, in batches, and cold beside sqlx."""

import re
import shutil
import subprocess

import rig
from rig import ROOT, Beside
from rows.stage import in_turn, per_second, program
from rows.table import Unmeasured, at_least, at_most

CONSTANT = ROOT / "target/bench/release/constant"
CALLERS = 32


def sample(stage):
    """A customer whose consent is as long as most are."""
    return stage.cluster.sql(stage.ceiling(), "select bench_customer(7)")


def rates(seen, side):
    return [one["rate"] for one in seen[side]]


def constant(stage, body):
    """Axum that answers a constant, on loopback."""
    address = rig.free_address()
    return stage.keep(Beside([CONSTANT, address, body], address))


def memory(stage):
    """A GET beside axum that answers a constant of the same size; and the 99th percentiles."""
    service = stage.service()
    stage.warm(service)
    for what, path in (("permissions", "/permissions"), ("consent", "")):
        body = service.get(f"/v1/customers/{sample(stage)}/consent{path}", Authorization=f"Bearer {service.key()}")[1]
        ceiling = constant(stage, body)
        load = {"what": path, "customers": stage.customers, "key": service.key()}
        seen = in_turn(stage.rounds, {
            "constant": lambda: stage.wrk("get.lua", ceiling.address, CALLERS, **load),
            "service": lambda: stage.wrk("get.lua", service.address, CALLERS, **load),
        })
        ceiling.stop()
        name = f"GET {what}, {stage.customers:,} customers, {CALLERS} callers"
        stage.table.compare(f"{name}; ceiling: axum answering a constant", rates(seen, "constant"),
                            rates(seen, "service"), at_least(0.80))
        late = ([one["p99_ms"] for one in seen[side]] for side in ("constant", "service"))
        stage.table.compare(f"{name}: p99", *late, at_most(2), "{:.2f}", " ms")


def batch(stage):
    """Checks a second: a hundred in one call, beside one in each."""
    service = stage.service()
    stage.warm(service)
    checks = lambda size: per_second(service.drive(  # noqa: E731
        "read", customers=stage.listed(), callers=CALLERS, batch=size, seconds=stage.seconds))
    seen = in_turn(stage.rounds, {"single": lambda: checks(None), "batch": lambda: checks(100)})
    stage.table.compare(f"checks in batches of 100, {CALLERS} callers; ceiling: single calls", seen["single"],
                        seen["batch"], at_least(20))


def cold(stage):
    """A customer whom the service does not hold: it was started just now, and each is asked for once."""
    service = stage.service()
    # Both meet a PostgreSQL that has its pages in memory: the first to come would pay for the second.
    url = stage.cluster.url(rig.SERVICE, stage.ceiling())
    for database in ("speed", "ceiling"):
        stage.cluster.sql(database, "select count(*) from vlaapi.customer_data_consent; "
                                    "select count(*) from vlaapi.customers")

    def fresh():
        service.stop()
        service.start()
        return per_second(service.drive("read", customers=stage.listed(), callers=CALLERS, seconds=stage.seconds,
                                        each="once"))

    seen = in_turn(stage.rounds, {
        "sqlx": lambda: per_second(rig.drive("select", database_url=url, customers=stage.listed(), callers=CALLERS,
                                             seconds=stage.seconds)),
        "service": fresh,
    })
    stage.table.compare(f"cold GET permissions, {CALLERS} callers (the service's has HTTP in it); ceiling: the same select "
                        "by sqlx with its defaults, pool 32", seen["sqlx"], seen["service"], at_least(3))


def redis(stage):
    """Checks beside redis-benchmark's GET of values as long as the answer."""
    service = stage.service()
    stage.warm(service)
    path = f"/v1/customers/{sample(stage)}/consent/permissions?check=embeddings"
    size = len(service.get(path, Authorization=f"Bearer {service.key()}")[1])
    # The package of the client has the server too, under another name: nothing is installed that starts by itself.
    client = program("redis-benchmark", "redis-tools")
    server = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if server is None:
        raise Unmeasured("there is no redis-server")
    address = rig.free_address()
    port = address.rsplit(":", 1)[1]
    words = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no",
             "--dir", stage.cluster.directory]
    beside = stage.keep(Beside(words, address, executable=server))

    def ask(test, requests):
        done = subprocess.run([client, "-p", port, "-t", test, "-c", str(CALLERS), "-n", str(requests),
                               "-r", str(stage.customers), "-d", str(size), "--csv"], capture_output=True, text=True)
        found = re.search(r'^"[SG]ET","([0-9.]+)"', done.stdout, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"redis-benchmark: {done.stdout[-300:]}{done.stderr[-300:]}")
        return float(found.group(1))

    ask("set", stage.customers)
    requests = int(ask("get", 50_000) * stage.seconds)
    load = {"what": "/permissions?check=embeddings", "customers": stage.customers, "key": service.key()}
    seen = in_turn(stage.rounds, {
        "redis": lambda: ask("get", requests),
        "service": lambda: stage.wrk("get.lua", service.address, CALLERS, **load)["rate"],
    })
    beside.stop()
    stage.table.compare(f"permission checks, {CALLERS} callers; ceiling: redis-benchmark -t get", seen["redis"],
                        seen["service"], at_least(0.9))
