"""PUTs on a database that PostgreSQL knows nothing of, beside the same on one that it has analyzed."""

from rows.stage import in_turn
from rows.table import at_least
from rows.writes import put, tell_refusals

CALLERS = 8
# Known to the service while the tables are empty: its sessions plan their statements for that.
FIRST = 100

# Past the service, and without triggers: nothing has the plans made again.
LOAD = """
set session_replication_role = replica;
insert into vlaapi.customers (customer_id, email, company_name)
  select bench_customer(n), 'customer-' || n || '@example.com', 'Customer ' || n from generate_series({0}, {1} - 1) n;
insert into vlaapi.customer_data_consent (customer_id) select bench_customer(n) from generate_series({0}, {1} - 1) n;
"""


def young(stage):
    """Autovacuum is off meanwhile: it would analyze both, sooner or later."""
    cluster = stage.cluster
    cluster.configure(autovacuum="off")
    services = {}
    try:
        for name in ("young", "analyzed"):
            services[name] = loaded(stage, name)
        refusals = []

        def analyzed():
            cluster.sql("analyzed", "analyze")
            return put(services["analyzed"], stage, listed(stage, "analyzed"), CALLERS, refusals)

        seen = in_turn(stage.rounds, {
            "analyzed": analyzed,
            "young": lambda: put(services["young"], stage, listed(stage, "young"), CALLERS, refusals),
        })
        what = f"PUT, {CALLERS} callers, tables never analyzed"
        stage.table.compare(f"{what}; ceiling: the same after ANALYZE", seen["analyzed"], seen["young"], at_least(0.9))
        tell_refusals(stage, what, refusals)
    finally:
        for service in services.values():
            service.stop()
        cluster.configure(autovacuum="on")


def loaded(stage, name):
    """A running service whose sessions have planned for empty tables, and customers that came after that."""
    service = stage.migrated(name)
    stage.cluster.sql(name, LOAD.format(0, FIRST))
    service.start()
    service.drive("put", customers=listed(stage, name, FIRST), callers=CALLERS, seconds=1, warm_up=0)
    stage.cluster.sql(name, LOAD.format(FIRST, customers(stage)))
    return service


def customers(stage):
    return stage.customers // 10


def listed(stage, name, count=None):
    path = stage.cluster.directory / f"customers-{name}-{count or 'all'}"
    if not path.exists():
        last = (count or customers(stage)) - 1
        path.write_text(stage.cluster.sql(name, f"select bench_customer(n) from generate_series(0, {last}) n") + "\n")
    return path
