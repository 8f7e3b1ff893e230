"""A PostgreSQL, services on it and callers of theirs: all on loopback and unix sockets, all gone afterwards."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/consentd"
DRIVER = ROOT / "target/bench/release/bench-driver"
OWNER, SERVICE = "consentd_owner", "consentd_service"


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def build():
    for arguments in (
        ["--bin", "consentd"],
        ["--manifest-path", "bench/driver/Cargo.toml", "--target-dir", "target/bench"],
    ):
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *arguments], cwd=ROOT, check=True)


def end(process, how):
    """Ends a process that was started here, by its id, and waits until it is gone."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def processor_time(process, with_children=False):
    """Seconds on a processor so far; of the children too, those which ended included."""

    def fields(number):
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()

    own = fields(process.pid)
    ticks = int(own[11]) + int(own[12])
    if with_children:
        ticks += int(own[13]) + int(own[14])
        for number in filter(str.isdigit, os.listdir("/proc")):
            try:
                child = fields(number)
            except OSError:
                continue
            if int(child[1]) == process.pid:
                ticks += int(child[11]) + int(child[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Cluster:
    """A PostgreSQL that keeps its promises: fsync, full pages, and every commit waits for the disk."""

    # Checkpoints come when they are asked for and not by themselves: what is measured is not the luck of meeting one.
    SETTINGS = (
        "listen_addresses=", "unix_socket_permissions=0777", "fsync=on", "synchronous_commit=on", "full_page_writes=on",
        "shared_buffers=512MB", "checkpoint_timeout=1h", "max_wal_size=12GB", "max_connections=100", "lc_messages=C",
    )

    def __init__(self, parent):
        self.programs = Path(os.environ["POSTGRES_PROGRAMS"])
        self.psql_program = shutil.which("psql", path=f"{self.programs}:{os.environ['PATH']}")
        if self.psql_program is None:
            raise SystemExit("psql is needed: install PostgreSQL's client programs")
        # Short: the path of a socket has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="consentd-bench.", dir=parent))
        self.directory.chmod(0o711)
        self.server = None
        # PostgreSQL refuses to run as root.
        self.identity = {}
        if os.geteuid() == 0:
            names = [name for name in ("postgres", "nobody") if any(user.pw_name == name for user in pwd.getpwall())]
            account = pwd.getpwnam(names[0])
            self.identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            self.directory.chmod(0o711)

    def start(self):
        data = self.directory / "data"
        arguments = [f"--username={OWNER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--pgdata", data]
        subprocess.run([self.programs / "initdb", *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/",
                       **self.identity)
        # In the file, where `configure` can change them.
        with (data / "postgresql.conf").open("a") as file:
            file.writelines("{} = '{}'\n".format(*setting.split("=")) for setting in self.SETTINGS)
        log = (self.directory / "server.log").open("wb")
        self.server = subprocess.Popen(
            [self.programs / "postgres", "-D", data, "-k", self.directory],
            stdout=log, stderr=log, cwd="/", **self.identity)
        for _ in range(200):
            ready = subprocess.run([self.psql_program, *self.psql_arguments("postgres"), "-c", "select 1"],
                                   capture_output=True)
            if ready.returncode == 0:
                break
            time.sleep(0.1)
        self.sql("postgres", "create role vlaapi_app nologin; create role vlaapi_eraser nologin; "
                             f"create role {SERVICE} login in role vlaapi_app, vlaapi_eraser")

    def psql_arguments(self, database):
        return ["-qAtX", "-v", "ON_ERROR_STOP=1", "-h", str(self.directory), "-U", OWNER, "-d", database]

    def sql(self, database, statement):
        # On standard input, each statement is a transaction of its own.
        done = subprocess.run([self.psql_program, *self.psql_arguments(database)], input=statement, text=True,
                              capture_output=True)
        if done.returncode != 0:
            raise RuntimeError(f"{statement}: {done.stderr}")
        return done.stdout.strip()

    def rows(self, database, statement):
        return [line.split("|") for line in self.sql(database, statement).splitlines()]

    def url(self, role, database):
        return f"postgres://{role}@localhost/{database}?host={self.directory}"

    def configure(self, **settings):
        for name, value in settings.items():
            self.sql("postgres", f"alter system set {name} = {value}")
        self.sql("postgres", "select pg_reload_conf()")
        time.sleep(0.5)

    def wal(self):
        return int(self.sql("postgres", "select pg_current_wal_insert_lsn() - '0/0'"))

    def held(self, database, statement):
        """A session which holds what the statement locks, until it is ended."""
        session = subprocess.Popen([self.psql_program, *self.psql_arguments(database)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        session.stdin.write(f"begin; {statement}; select 'held';\n")
        session.stdin.flush()
        while session.stdout.readline().strip() != "held":
            pass
        return session

    def stop(self):
        if self.server:
            end(self.server, signal.SIGINT)
        shutil.rmtree(self.directory, ignore_errors=True)


class Service:
    """A service in release build on one of the cluster's databases."""

    def __init__(self, cluster, database, *flags, keys_of=None):
        self.cluster, self.database, self.flags = cluster, database, flags
        self.home = cluster.directory / f"service-{database}"
        if keys_of:
            shutil.copytree(keys_of.home, self.home)
        self.home.mkdir(exist_ok=True)
        self.log = self.home / "log"
        self.process = None

    def place(self, role=SERVICE):
        return ["--database-url", self.cluster.url(role, self.database), "--data-dir", str(self.home)]

    def run(self, *arguments, role=SERVICE, accept=(0,)):
        """Runs a command of the program beside the service, and answers what it prints."""
        done = subprocess.run([PROGRAM, *arguments, *self.place(role)], capture_output=True, text=True)
        if done.returncode not in accept:
            raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--listen", self.address, "--no-migrate", "--audit-verify-interval", "0",
             "--log-format", "json", "--log", "warn,consentd::app::publication=info", *self.place(), *self.flags],
            stdout=subprocess.DEVNULL, stderr=self.log.open("ab"))
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://{self.address}/readyz", timeout=1) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"the service does not start: {self.log.read_text()[-2000:]}")

    def stop(self):
        if self.process:
            end(self.process, signal.SIGTERM)

    def processor_time(self):
        """Of the service and of the whole PostgreSQL."""
        return processor_time(self.process) + processor_time(self.cluster.server, with_children=True)

    def checkpoints(self):
        """What was published: (when, size of the tree), by the log lines, which are written after the signature."""
        found = []
        for line in self.log.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("message") == "checkpoint":
                found.append((entry["timestamp"], int(entry["size"])))
        return found

    def drain(self):
        """Waits until everything is sealed and signed; answers how many entries waited at first."""
        backlog = "select (select count(*) from vlaapi.audit_pending), (select tree_size from vlaapi.audit_logs) - " \
                  "(select coalesce(max(tree_size), 0) from vlaapi.audit_checkpoints)"
        first = None
        while True:
            queued, unsigned = (int(count) for count in self.cluster.rows(self.database, backlog)[0])
            first = queued if first is None else first
            if queued == 0 and unsigned == 0:
                return first
            time.sleep(0.2)

    def load(self, callers, seconds, warm_up=0.0, rate=None, changes=None):
        """Callers that put consents; answers what the driver says."""
        customers = self.home / "customers"
        if not customers.exists():
            customers.write_text(self.cluster.sql(
                self.database, "select customer_id from vlaapi.customers order by customer_id") + "\n")
        arguments = ["--address", self.address, "--key-file", self.home / "operator.key", "--customers", customers,
                     "--callers", callers, "--seconds", seconds, "--warm-up", warm_up]
        arguments += ["--rate", rate] if rate else []
        arguments += ["--changes", changes] if changes else []
        entries = "select count(*) from vlaapi.customer_consent_audit"
        before = int(self.cluster.sql(self.database, entries))
        done = subprocess.run([DRIVER, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"the driver failed: {done.stderr}")
        answer = json.loads(done.stdout)
        if answer["refused"]:
            raise RuntimeError(f"the service refused {answer['refused']} of {answer['all']} changes")
        # More may be there: consents expire meanwhile.
        written = int(self.cluster.sql(self.database, entries)) - before
        if written < answer["all"]:
            raise RuntimeError(f"{answer['all']} changes left {written} entries: some changed nothing")
        return answer
