"""Other consent services on the same PostgreSQL, as their own documents say that they are run."""

import json
import shutil
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import rig
from rig import ROOT, Beside
from rows.reads import CALLERS, rates
from rows.stage import in_turn
from rows.table import Unmeasured, at_least
from rows.writes import put, tell_refusals

C15T = ROOT / "bench/peers/c15t"
SUBJECTS = 500
# What c15t looks up and makes no index for: without them, it would be slower with every subject.
INDEXES = 'create index on subject ("externalId"); create index on consent ("subjectId")'


def c15t(stage):
    """Its check and its write, each call as documented, beside ours with as many callers."""
    target, service = at_least(20), stage.service()
    stage.warm(service)
    try:
        peer = begin(stage)
    except Unmeasured as why:
        stage.table.unmeasured("against c15t: checks and writes", why, target)
        return
    ask = lambda mode: stage.wrk("c15t.lua", peer.address, CALLERS, mode=mode, subjects=SUBJECTS)  # noqa: E731
    fill(peer.address)
    stage.cluster.sql("c15t", "analyze")
    checks = in_turn(stage.rounds, {
        "c15t": lambda: ask("check"),
        "service": lambda: stage.wrk("get.lua", service.address, CALLERS, what="/permissions?check=embeddings",
                                     customers=stage.customers, key=service.key()),
    })
    stage.table.compare(f"checks, {CALLERS} callers; ceiling: c15t", rates(checks, "c15t"), rates(checks, "service"),
                        target)
    refusals = []
    writes = in_turn(stage.rounds, {
        "c15t": lambda: ask("write")["rate"],
        "service": lambda: put(service, stage, stage.listed(), CALLERS, refusals),
    })
    stage.table.compare(f"writes, {CALLERS} callers; ceiling: c15t", writes["c15t"], writes["service"], target)
    tell_refusals(stage, f"PUT, {CALLERS} callers beside c15t", refusals)
    peer.stop()


def begin(stage):
    """Installs c15t beside the data, makes its tables, and starts it."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise Unmeasured("node and npm are not installed")
    home = stage.cluster.directory / "c15t"
    shutil.copytree(C15T, home)
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unmeasured(f"npm cannot install @c15t/backend: {done.stderr.strip()[-300:]}")
    stage.cluster.sql("postgres", "create database c15t")
    address = rig.free_address()
    peer = stage.keep(Beside(["node", home / "serve.mjs", address.rsplit(":", 1)[1], stage.cluster.directory, "c15t",
                              rig.OWNER], address))
    stage.cluster.sql("c15t", INDEXES)
    return peer


def fill(address):
    """Writes every subject once. The first one alone: with it come policy and domain, which two cannot make at once."""

    def write(number):
        # Its ids are base58, which has no zero.
        body = {"type": "cookie_banner", "subjectId": "sub_" + f"{number:08}".replace("0", "z"),
                "externalSubjectId": f"user-{number}", "domain": "example.com", "givenAt": 1767225600000, "metadata": {},
                "preferences": {"necessary": True, "measurement": True, "marketing": False}}
        request = urllib.request.Request(f"http://{address}/subjects", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()

    write(0)
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(write, range(1, SUBJECTS)))


def version():
    return "c15t " + json.loads((C15T / "package.json").read_text())["dependencies"]["@c15t/backend"]


def original(stage):
    """The program from which this service was made."""
    raise Unmeasured("the Python original is not in this repository")
