"""A PostgreSQL, services on it and callers of theirs: all on loopback and unix sockets, all gone afterwards."""

import http.client
import json
import os
import platform
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/consentd"
DRIVER = ROOT / "target/bench/release/bench-driver"
OWNER, SERVICE = "consentd_owner", "consentd_service"


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def number(value):
    return f"{value:,.0f}"


def spread(values, form="{:.2f}"):
    return f"{form.format(min(values))} to {form.format(max(values))}"


def build(*more):
    """The service and the driver, in release; and what else is named by cargo's arguments."""
    driver = ["--manifest-path", "bench/driver/Cargo.toml", "--target-dir", "target/bench"]
    for arguments in (["--bin", "consentd"], driver, *more):
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *arguments], cwd=ROOT, check=True)


def free_address():
    """A port on loopback that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % free.getsockname()[1]


def drive(mode, **arguments):
    """Runs the driver, and answers what it says."""
    words = [str(word) for name, value in arguments.items() if value is not None
             for word in ("--" + name.replace("_", "-"), value)]
    done = subprocess.run([DRIVER, mode, *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the driver failed: {mode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


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


def fsync(directory):
    """Milliseconds until 8 kB are on the disk: median and 99th percentile of 300."""
    waits = []
    with tempfile.TemporaryFile(dir=directory) as file:
        os.write(file.fileno(), bytes(8192 * 16))
        os.fsync(file.fileno())
        for turn in range(300):
            began = time.perf_counter()
            os.pwrite(file.fileno(), os.urandom(8192), turn % 16 * 8192)
            os.fdatasync(file.fileno())
            waits.append((time.perf_counter() - began) * 1000)
    waits.sort()
    return f"{waits[150]:.2f} ms (p99 {waits[296]:.2f})"


def disk(directory):
    found = subprocess.run(["findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "--target", directory],
                           capture_output=True, text=True).stdout.split()
    if found and found[-1] in ("tmpfs", "ramfs"):
        raise SystemExit(f"{directory} is memory: name a directory on a disk with --directory")
    return " ".join(found) or "unknown"


def output(*command):
    """What a program prints, on one line; nothing where there is no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return ""
    return " ".join(done.stdout.split())


def machine(cluster, directory, before, load, *versions):
    def first(path, key):
        lines = [line for line in Path(path).read_text().splitlines() if line.startswith(key)]
        return lines[0].split(":", 1)[1].strip() if lines else "unknown"

    memory = int(first("/proc/meminfo", "MemTotal").split()[0]) / 1024 / 1024
    return "\n".join([
        f"- {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, commit {output('git', 'rev-parse', '--short', 'HEAD')}",
        f"- {os.cpu_count()} cores ({first('/proc/cpuinfo', 'model name')}), {memory:.0f} GB memory; load average "
        f"{load[0]:.1f} before the run, {os.getloadavg()[0]:.1f} after it; callers, service and PostgreSQL share the cores",
        f"- disk {disk(directory)}: 8 kB written and synced in {before} before the run, {fsync(directory)} after it",
        f"- {platform.system()} {platform.release()}, PostgreSQL {cluster.sql('postgres', 'show server_version')}, "
        + ", ".join([output("rustc", "--version"), output(PROGRAM, "--version"), *versions]),
        "- PostgreSQL: " + ", ".join(cluster.settings[2:8]),
    ])


class Cluster:
    """A PostgreSQL that keeps its promises: fsync, full pages, and every commit waits for the disk."""

    # Checkpoints come when they are asked for and not by themselves: what is measured is not the luck of meeting one.
    SETTINGS = (
        "listen_addresses=", "unix_socket_permissions=0777", "fsync=on", "synchronous_commit=on", "full_page_writes=on",
        "shared_buffers=512MB", "checkpoint_timeout=1h", "max_wal_size=12GB", "max_connections=100", "lc_messages=C",
    )

    def __init__(self, parent, **settings):
        self.settings = [f"{name}={settings.pop(name, value)}" for name, value in
                         (setting.split("=") for setting in self.SETTINGS)]
        self.settings += [f"{name}={value}" for name, value in settings.items()]
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
            file.writelines("{} = '{}'\n".format(*setting.split("=")) for setting in self.settings)
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


class Beside:
    """A server that stands beside the service, on loopback."""

    def __init__(self, words, address, **how):
        self.address = address
        self.process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True, **how)
        host, port = address.rsplit(":", 1)
        for _ in range(3000):
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"{words[0]} does not start: {self.process.stderr.read()[-1000:]}") from None
                time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"{words[0]} does not listen on {address}")

    def stop(self):
        end(self.process, signal.SIGTERM)


class Service:
    """A service in release build on one of the cluster's databases."""

    def __init__(self, cluster, database, *flags, keys_of=None, name=None):
        self.cluster, self.database, self.flags = cluster, database, flags
        self.home = cluster.directory / f"service-{name or database}"
        if keys_of:
            # Its keys alone: what it publishes is replaced while it is copied.
            shutil.copytree(keys_of.home, self.home, ignore=shutil.ignore_patterns("audit-checkpoint*", "log"))
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
        self.address = free_address()
        self.launch("--no-migrate", *self.place())
        return self

    def launch(self, *place):
        """Starts the service and waits until it is ready; answers how many seconds that took."""
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--listen", self.address, "--audit-verify-interval", "0", "--log-format", "json",
             "--log", "warn,consentd::app::publication=info", *place, *self.flags],
            stdout=subprocess.DEVNULL, stderr=self.log.open("ab"))
        while not self.is_ready():
            if self.process.poll() is not None or time.perf_counter() - began > 60:
                raise RuntimeError(f"the service does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.001)
        return time.perf_counter() - began

    def get(self, path, **headers):
        """The status and the body of an answer."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def is_ready(self):
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def status(self, name):
        """A line of the process's status in the kernel, in bytes: VmRSS, VmHWM."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"the kernel tells no {name}")

    def forget_peak(self):
        """From here on, VmHWM is the greatest VmRSS."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def key(self):
        return (self.home / "operator.key").read_text().strip()

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

    def drive(self, mode, **arguments):
        """Runs the driver against this service, and answers what it says."""
        return drive(mode, address=self.address, key_file=self.home / "operator.key", **arguments)

    def load(self, callers, seconds, warm_up=0.0, rate=None, changes=None):
        """Callers that put consents; answers what the driver says."""
        customers = self.home / "customers"
        if not customers.exists():
            customers.write_text(self.cluster.sql(
                self.database, "select customer_id from vlaapi.customers order by customer_id") + "\n")
        entries = "select count(*) from vlaapi.customer_consent_audit"
        before = int(self.cluster.sql(self.database, entries))
        answer = self.drive("put", customers=customers, callers=callers, seconds=seconds, warm_up=warm_up, rate=rate,
                            changes=changes)
        if answer["refused"]:
            raise RuntimeError(f"the service refused {answer['refused']} of {answer['all']} changes")
        # More may be there: consents expire meanwhile.
        written = int(self.cluster.sql(self.database, entries)) - before
        if written < answer["all"]:
            raise RuntimeError(f"{answer['all']} changes left {written} entries: some changed nothing")
        return answer
