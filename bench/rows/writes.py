"""Writes beside pgbench, which writes the same rows on an identical database."""

from rows.reads import CALLERS
from rows.stage import in_turn
from rows.table import at_least

TARGETS = {128: 5, 32: 2, 1: 0.8}


def put(service, stage, customers, callers, refusals):
    """PUTs a second; what the sealer has left is waited for, in nobody's time. Which part was refused is noted down."""
    answer = service.drive("put", customers=customers, callers=callers, seconds=stage.seconds, warm_up=0.5)
    service.drain()
    refusals.append(answer["refused"] / (answer["all"] + answer["refused"]))
    return answer["changes"] / answer["seconds"]


def tell_refusals(stage, what, refusals):
    if max(refusals):
        stage.table.note(f"{what}: the service refused {min(refusals):.1%} to {max(refusals):.1%} of the changes in a "
                         "round, which are not counted.")


def spread_out(stage):
    """Customers of their own for each caller."""
    service, customers = stage.service(), stage.listed()
    settle(stage, service, customers)
    for callers, wanted in TARGETS.items():
        own, refusals = {"slots": stage.customers // callers, "stride": callers, "own": 1}, []
        seen = in_turn(stage.rounds, {
            "transaction": lambda: stage.pgbench("transaction.sql", callers, **own),
            "statement": lambda: stage.pgbench("statement.sql", callers, **own),
            "service": lambda: put(service, stage, customers, callers, refusals),
        })
        name = f"PUT with audit entry, {callers} caller{'s' if callers > 1 else ''}; ceiling: pgbench"
        stage.table.compare(f"{name}, a transaction of two statements", seen["transaction"], seen["service"],
                            at_least(wanted))
        stage.table.compare(f"{name}, one statement", seen["statement"], seen["service"])
        tell_refusals(stage, f"PUT, {callers} callers", refusals)


def hot(stage):
    """All callers on one customer."""
    service, callers = stage.service(), max(TARGETS)
    customer = stage.listed("hot", 11, 1)
    settle(stage, service, stage.listed())
    one, refusals = {"slots": 1, "stride": 0, "own": 0}, []
    seen = in_turn(stage.rounds, {
        "transaction": lambda: stage.pgbench("transaction.sql", callers, **one),
        "service": lambda: put(service, stage, customer, callers, refusals),
    })
    stage.table.compare(f"PUT, {callers} callers on one customer; ceiling: pgbench's transaction on one",
                        seen["transaction"], seen["service"], at_least(10))
    tell_refusals(stage, f"PUT, {callers} callers on one customer", refusals)


def settle(stage, service, customers):
    """Both sides write once before they are measured: connections, plans, and pages since the checkpoint."""

    def both():
        own = {"slots": stage.customers // CALLERS, "stride": CALLERS, "own": 1}
        stage.pgbench("transaction.sql", CALLERS, **own)
        put(service, stage, customers, CALLERS, [])

    stage.once("settled", both)
