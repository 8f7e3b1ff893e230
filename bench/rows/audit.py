"""The audit trail: pages at any depth, and exports beside COPY."""

import subprocess
import time
from urllib.parse import urlencode

from rig import say
from rows.stage import in_turn
from rows.table import at_least, at_most

LIMIT = 50
SHARE = 16
MIB = 1024 * 1024

# Every filter's value is that of one entry in sixteen, each of others. The ids follow the times, as they do in life.
ENTRIES = """
set session_replication_role = replica;
insert into vlaapi.customer_consent_audit
  (customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, on_behalf_of, change_reason,
   timestamp, ip_address, user_agent, request_id, changed_by_salt, on_behalf_of_salt, change_reason_salt,
   ip_address_salt, user_agent_salt, mac)
select
  case n % 16 when 0 then bench_customer({customers}) else bench_customer(n % {customers}) end,
  case when n * 2654435761 / 4096 % 16 = 3 then 'withdrawn' else 'updated' end,
  case n % 16 when 0 then n / 16 else n / {customers} end + 1,
  case when n * 2246822519 / 4096 % 16 = 5 then 'research' else 'analytics' end,
  case when n * 3266489917 / 4096 % 16 = 7 then 'research' else 'basic' end,
  '{{"consent_tier": "analytics", "can_store_images": false, "can_store_embeddings": true, "can_use_for_training": false, "anonymization_level": "full", "policy_version": "2026-01", "expires_at": null, "consent_granted_at": "2026-01-01T00:00:00.123456Z"}}',
  '{{"consent_tier": "basic", "can_store_images": false, "can_store_embeddings": false, "can_use_for_training": false, "anonymization_level": "full", "policy_version": "2026-02", "expires_at": null, "consent_granted_at": "2026-01-01T00:00:00.123456Z"}}',
  case when n * 668265263 / 4096 % 16 = 9 then 'key:vla_live_rare' else 'key:vla_live_often' end,
  'user-' || n, 'asked for in the settings',
  timestamptz '2025-01-01T00:00:00Z' + n * interval '1 second',
  case when n * 374761393 / 4096 % 16 = 11 then inet '203.0.113.7' when n * 374761393 / 4096 % 16 = 12 then inet '198.51.100.0' + n % 250
    else inet '10.0.0.0' + n % 16000000 end,
  'browser/1', case when n * 2869860233 / 4096 % 16 = 13 then 'batch' else 'request-' || n end,
  salt, salt, salt, salt, salt, salt
from generate_series({first}::bigint, {last}) n, (select '\\x00112233445566778899aabbccddeeff'::bytea as salt) constant;
"""

# How the indexes are taken off for the load, and made again.
INDEXES = """
select case when c.oid is null then format('drop index %s', i.indexrelid::regclass)
    else format('alter table %s drop constraint %I', i.indrelid::regclass, c.conname) end,
  case when c.oid is null then pg_get_indexdef(i.indexrelid)
    else format('alter table %s add constraint %I %s', i.indrelid::regclass, c.conname, pg_get_constraintdef(c.oid)) end
from pg_index i
left join pg_constraint c on c.conindid = i.indexrelid and c.contype in ('p', 'u')
where i.indrelid = 'vlaapi.customer_consent_audit'::regclass
order by i.indexrelid
"""

COPY = """
copy (select audit_id, customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, on_behalf_of,
        change_reason, ip_address, user_agent, request_id, timestamp
      from vlaapi.customer_consent_audit where timestamp >= '{since}' order by timestamp desc, audit_id desc)
  to stdout (format csv, header)
"""


def trail(stage):
    """A service on a database with a long trail."""

    def load():
        say(f"loading {stage.entries:,} audit entries")
        service = stage.migrated("trail")
        cluster = stage.cluster
        indexes = cluster.rows("trail", INDEXES)
        # Durable again before anything is measured.
        cluster.configure(fsync="off", full_page_writes="off", autovacuum="off")
        for taken_off, _ in indexes:
            cluster.sql("trail", taken_off)
        step = 2_000_000
        for first in range(0, stage.entries, step):
            cluster.sql("trail", ENTRIES.format(customers=customers_of_trail(stage), first=first,
                                                last=min(first + step, stage.entries) - 1))
        for _, made in indexes:
            cluster.sql("trail", f"set maintenance_work_mem = '1GB'; {made}")
        cluster.sql("trail", "vacuum analyze vlaapi.customer_consent_audit")
        cluster.configure(fsync="on", full_page_writes="on", autovacuum="on")
        cluster.sql("postgres", "checkpoint")
        subprocess.run(["sync"], check=True)
        return service.start()

    return stage.once("trail", load)


def customers_of_trail(stage):
    # No multiple of sixteen: what a customer has is of every kind.
    return stage.entries // 10 + 1


def time_of(entry):
    began = 1735689600  # 2025-01-01
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began + entry))


def filters(stage):
    """The query of each filter, and which part of the trail it lets through."""
    at = lambda part: time_of(int(stage.entries * part))  # noqa: E731
    customer = stage.cluster.sql("trail", f"select bench_customer({customers_of_trail(stage)})")
    one, window = 1 / SHARE, 0.25
    return {
        "no filter": ({}, 1),
        "customer_id": ({"customer_id": customer}, one),
        "since": ({"since": at(1 - window)}, window),
        "until": ({"until": at(window)}, window),
        "since and until": ({"since": at(0.25), "until": at(0.25 + window)}, window),
        "action": ({"action": "withdrawn"}, one),
        "previous_tier": ({"previous_tier": "research"}, one),
        "new_tier": ({"new_tier": "research"}, one),
        "changed_by": ({"changed_by": "key:vla_live_rare"}, one),
        "ip_address": ({"ip_address": "203.0.113.7"}, one),
        "ip_address, a network": ({"ip_address": "198.51.100.0/24"}, one),
        "request_id": ({"request_id": "batch"}, one),
        "action and new_tier": ({"action": "withdrawn", "new_tier": "research"}, one * one),
        "changed_by in a window": ({"changed_by": "key:vla_live_rare", "since": at(0.25), "until": at(0.75)}, one / 2),
    }


def pages(stage):
    """A list's first page beside one deep in it, for every filter."""
    service = trail(stage)
    for name, (query, part) in filters(stage).items():
        try:
            page(stage, service, name, query, part)
        except RuntimeError as error:
            stage.table.failed(f"audit page, {stage.entries:,} entries, {name}", str(error))


def page(stage, service, name, query, part):
    first = "/v1/audit?" + urlencode(query)
    # As deep as there is something, where that is less.
    deep = int(min((1000 if stage.quick else 10_000) * LIMIT, stage.entries * part * 0.8))
    step = min(1000, deep)
    there = service.drive("walk", **{"from": first}, skip=deep // step, step=step, limit=LIMIT, times=1)["at"]
    # The machine itself stops for some milliseconds now and then: of a hundred answers, two such moments would be the 99th
    # percentile.
    times = 200 if stage.quick else 1000
    ask = lambda start: service.drive("walk", **{"from": start}, limit=LIMIT, times=times, seconds=1)  # noqa: E731
    seen = in_turn(stage.rounds, {"page 1": lambda: ask(first), "deep": lambda: ask(there)})
    what = f"audit page, {stage.entries:,} entries, {name}: page {deep // step * step // LIMIT:,}"
    beginning, depth = ([one["p50_ms"] for one in seen[side]] for side in ("page 1", "deep"))
    stage.table.compare(f"{what}; ceiling: page 1", beginning, depth, at_most(1.2), "{:.2f}", " ms")
    late = [max(pair) for pair in zip(*([one["p99_ms"] for one in side] for side in seen.values()))]
    stage.table.value(f"{what} or page 1, the slower one: p99 at 1 caller", late, at_most(5, " ms"), unit=" ms")


def export(stage):
    """Rows a second of an export beside COPY, and what the service's memory grows by while it exports everything."""
    service = trail(stage)
    exported = min(250_000 if stage.quick else 1_000_000, stage.entries)
    since = time_of(stage.entries - exported)
    for name, accept in (("CSV", "text/csv"), ("NDJSON", "application/x-ndjson")):

        def download(path, entries):
            answer = service.drive("download", path=path, accept=accept)
            if answer["lines"] < entries:
                raise RuntimeError(f"an export had {answer['lines']} of {entries} rows")
            return entries / answer["seconds"]

        seen = in_turn(stage.rounds, {
            "COPY": lambda: exported / copy(stage.cluster, since),
            "service": lambda: download("/v1/audit?" + urlencode({"since": since}), exported),
        })
        stage.table.compare(f"audit export, {name}, {exported:,} of {stage.entries:,} entries; ceiling: psql COPY TO STDOUT",
                            seen["COPY"], seen["service"], at_least(0.8), unit=" rows/s")
        idle = service.status("VmRSS")
        service.forget_peak()
        download("/v1/audit", stage.entries)
        stage.table.value(f"audit export, {name}, all entries: the service's memory over what it was",
                          [(service.status("VmHWM") - idle) / MIB], at_most(64, " MiB"), "{:.1f}", " MiB")


def copy(cluster, since):
    """Seconds."""
    began = time.perf_counter()
    subprocess.run([cluster.psql_program, *cluster.psql_arguments("trail"), "-c", COPY.format(since=since)], check=True,
                   stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
