"""What a settings page does: shows a customer's consent, allows embeddings, and shows what was changed when and by whom.

CONSENTD_URL=http://127.0.0.1:8080 CONSENTD_API_KEY=vla_live_… python dashboard.py CUSTOMER_ID
"""

import os
import sys
from collections.abc import Iterator
from typing import NoReturn
from uuid import UUID

from consentd_client import AuthenticatedClient
from consentd_client.api.audit import list_customer_audit
from consentd_client.api.consent import get_consent, put_consent
from consentd_client.models import (
    AuditEntry,
    ConsentDecision,
    ConsentStatus,
    ConsentTier,
    ConsentView,
    PageAuditEntry,
    Problem,
    Receipted,
)
from consentd_client.types import UNSET

client = AuthenticatedClient(
    base_url=os.environ.get("CONSENTD_URL", "http://127.0.0.1:8080"), token=os.environ["CONSENTD_API_KEY"]
)
customer = UUID(sys.argv[1])


def fail(problem: Problem | None) -> NoReturn:
    for fault in (problem and problem.errors) or []:
        print(f"{fault.pointer or fault.parameter}: {fault.detail}", file=sys.stderr)
    sys.exit(problem.detail if problem else "no answer")


def allow_embeddings() -> Receipted:
    # Somebody else may decide at the same time: then their decision is read, and this one made anew.
    while True:
        read = get_consent.sync_detailed(customer, client=client)
        consent = read.parsed
        if not isinstance(consent, ConsentView):
            fail(consent if isinstance(consent, Problem) else None)
        print(f"version {consent.version}: {consent.consent_tier.value}, {consent.status.value}")
        research = consent.consent_tier is ConsentTier.RESEARCH
        changed = put_consent.sync(
            customer,
            client=client,
            if_match=read.headers["ETag"],
            # A decision replaces the whole consent: what stays is said too.
            body=ConsentDecision(
                ConsentTier.RESEARCH if research else ConsentTier.ANALYTICS,
                can_store_images=consent.can_store_images,
                can_store_embeddings=True,
                can_use_for_training=consent.can_use_for_training,
                anonymization_level=consent.anonymization_level,
                expires_at=consent.expires_at if consent.status is ConsentStatus.ACTIVE else None,
                policy_version=consent.policy_version,
                reason="asked for in the settings",
                on_behalf_of="user-17",
            ),
        )
        if isinstance(changed, Receipted):
            return changed
        if changed is None or changed.type_ != "/problems/version-moved":
            fail(changed)


def trail() -> Iterator[AuditEntry]:
    cursor: str | None = ""
    while cursor is not None:
        page = list_customer_audit.sync(customer, client=client, limit=50, cursor=cursor or UNSET)
        if not isinstance(page, PageAuditEntry):
            fail(page)
        yield from page.items
        cursor = page.next_cursor


consent = allow_embeddings()
print(f"version {consent.version}: {consent.consent_tier.value}, embeddings may be kept")
for entry in trail():
    print(f"{entry.timestamp}  {entry.action.value} ({entry.new_tier.value}) by {entry.changed_by or 'someone'}")
