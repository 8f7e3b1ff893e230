"""What the rows are played on: databases with customers, the service on them, and the programs that make load."""

import json
import os
import shutil
import statistics
import subprocess

import rig
from rig import ROOT, Service, say
from rows.table import Unmeasured

BENCH = ROOT / "bench"
DEMO = 2000

# The n-th customer, the same in every language: pgbench and wrk make ids without reading a list of them.
CUSTOMER = """
create function public.bench_customer(n bigint) returns uuid language sql immutable parallel safe
return (
  lpad(to_hex(((n * 2654435761) & 4294967295) # (((n * 2654435761) & 4294967295) >> 15)), 8, '0')
  || '-' || lpad(to_hex((n * 2246822519 >> 16) & 65535), 4, '0')
  || '-4' || lpad(to_hex((n * 2246822519) & 4095), 3, '0')
  || '-8' || lpad(to_hex((n * 3266489917 >> 20) & 4095), 3, '0')
  || '-' || lpad(to_hex((n * 3266489917) & 1048575), 5, '0') || lpad(to_hex((n * 668265263) & 268435455), 7, '0')
)::uuid;
"""

# Customers as the demo makes them, over and over. Only the consents are copied: a million histories are no part of
# what is measured here. Triggers and foreign keys rest meanwhile.
MULTIPLY = """
set session_replication_role = replica;
create table public.bench_kinds as
  select row_number() over (order by customer_id) - 1 as kind, d.* from vlaapi.customer_data_consent d
  where expires_at is null or expiry_recorded or expires_at > now() + interval '2 days';
insert into vlaapi.customers (customer_id, email, company_name)
  select bench_customer(n), 'customer-' || n || '@example.com', 'Customer ' || n from generate_series(0, {0} - 1) n;
insert into vlaapi.customer_data_consent
  (customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training, anonymization_level,
   consent_granted_at, consent_updated_at, expires_at, policy_version, version, audit_id, expiry_recorded)
  select bench_customer(n), consent_tier, can_store_images, can_store_embeddings, can_use_for_training,
    anonymization_level, consent_granted_at, consent_updated_at, expires_at, policy_version, version, audit_id,
    expiry_recorded
  from generate_series(0, {0} - 1) n
  join public.bench_kinds on kind = n % (select count(*) from public.bench_kinds);
"""


def in_turn(rounds, sides):
    """What each side gives, round by round; who comes first takes turns too."""
    found = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(sides) if turn % 2 else list(reversed(sides))
        for name in names:
            found[name].append(sides[name]())
        say(f"  round {turn + 1}: " + ", ".join(f"{name} {brief(found[name][-1])}" for name in sides))
    return found


def brief(value):
    """A figure; of several, the one that counts."""
    if isinstance(value, dict):
        value = value["rate"] if "rate" in value else value["p50_ms"]
    return f"{value:,.1f}"


def tolerable(refused, requests):
    """On a machine that is busy with other things a request in a hundred may be refused: it is not counted."""
    if requests == 0 or refused > requests / 100:
        raise RuntimeError(f"{refused} of {requests} requests were refused or broken off")


def per_second(answer):
    """What the driver says of reads, as things a second."""
    tolerable(answer["refused"], answer["requests"] + answer["refused"])
    return answer["count"] / answer["seconds"]


def program(name, package):
    """A program that makes load: installed with apt-get where that can be done, or the row says what is missing."""
    if shutil.which(name) is None and shutil.which("apt-get") and os.geteuid() == 0:
        say(f"{name} is not installed: installing the package {package} with apt-get")
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
            subprocess.run(["apt-get", *words], capture_output=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    found = shutil.which(name)
    if found is None:
        raise Unmeasured(f"{name} is not installed (the package {package} has it)")
    return found


class Stage:
    """Made once; each database is made when the first row asks for it."""

    def __init__(self, arguments, cluster, table):
        self.quick, self.cluster, self.table = arguments.quick, cluster, table
        self.rounds = 2 if self.quick else 5
        self.seconds = 1 if self.quick else 5
        self.customers = arguments.customers or (100_000 if self.quick else 1_000_000)
        self.entries = arguments.entries or (1_000_000 if self.quick else 20_000_000)
        self.flags = arguments.serve
        self.processes = []
        self._made = {}

    def once(self, name, make):
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def keep(self, process):
        """A process which is ended when the bench ends."""
        self.processes.append(process)
        return process

    def new_service(self, database, *flags, **how):
        return self.keep(Service(self.cluster, database, *self.flags, *flags, **how))

    def migrated(self, database):
        """An empty database with its log opened, and the service that has its keys, stopped."""
        self.cluster.sql("postgres", f"create database {database}")
        service = self.new_service(database)
        service.run("migrate", "up", role=rig.OWNER)
        service.start().stop()
        self.cluster.sql(database, CUSTOMER)
        return service

    def service(self):
        """The service with many customers, running."""
        service = self.once("speed", self._speed)
        return service if service.is_running() else service.start()

    def _speed(self):
        say(f"loading {self.customers:,} customers")
        service = self.migrated("speed")
        service.run("demo", "--customers", str(DEMO), role=rig.OWNER)
        service.start().drain()
        service.stop()
        self.cluster.sql("speed", MULTIPLY.format(self.customers))
        self.cluster.sql("speed", "vacuum analyze")
        # Identical, before anything is measured: where pgbench writes.
        self.cluster.sql("postgres", "create database ceiling template speed")
        self.cluster.sql("postgres", "checkpoint")
        return service.start()

    def ceiling(self):
        """The name of the database beside the service's, with the same schema and data."""
        self.service()
        return "ceiling"

    def listed(self, name="all", first=0, count=None):
        """A file of the ids of some customers, from the first on."""
        path = self.cluster.directory / f"customers-{name}"
        if not path.exists():
            last = first + (count or self.customers) - 1
            path.write_text(self.cluster.sql(
                self.ceiling(), f"select bench_customer(n) from generate_series({first}, {last}) n") + "\n")
        return path

    def warm(self, service):
        """Every customer is asked for once, so that what the service keeps in memory is there."""
        per_second(service.drive("read", customers=self.listed(), callers=4, batch=1000, each="once"))

    def wrk(self, script, address, callers=32, **environment):
        """What wrk saw: requests a second, and the 99th percentile in ms."""
        words = [program("wrk", "wrk"), f"-c{callers}", "-t1", f"-d{self.seconds}s",
                 "-s", BENCH / "loads" / script, f"http://{address}"]
        environment = os.environ | {name.upper(): str(value) for name, value in environment.items()}
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
        seen = json.loads(done.stdout.splitlines()[-1])
        tolerable(seen["refused"], seen["requests"])
        return seen | {"rate": seen["rate"] * (1 - seen["refused"] / seen["requests"])}

    def pgbench(self, script, callers, **variables):
        """Transactions a second, once every session has planned its statements and compiled the triggers: where there are
        many, that takes them seconds, which a service whose sessions stay does not pay."""
        warm_up = 2 if self.quick else 3
        found = shutil.which("pgbench", path=f"{self.cluster.programs}:{os.environ['PATH']}")
        if found is None:
            raise Unmeasured("pgbench is not among PostgreSQL's programs here")
        words = [found, "-n", "-M", "prepared", "-f", BENCH / "loads" / script, "-c", callers,
                 "-j", min(callers, os.cpu_count()), "-P", 1,
                 "-T", warm_up + self.seconds + 1, "-h", self.cluster.directory, "-U", rig.OWNER,
                 *(f"-D{name}={value}" for name, value in variables.items()), self.ceiling()]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        rates = [float(line.split()[3]) for line in done.stderr.splitlines() if line.startswith("progress: ")]
        measured = rates[warm_up:warm_up + self.seconds]
        # It may end before it tells of its last second, which is why there is one more.
        if done.returncode != 0 or len(measured) < self.seconds:
            raise RuntimeError(f"pgbench failed: {done.stderr.strip()[-500:]}")
        return statistics.mean(measured)
