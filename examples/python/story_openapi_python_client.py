"""The story that every client is checked by, told with openapi-python-client."""

import os
from http import HTTPStatus
from uuid import uuid4

from consentd_client import AuthenticatedClient
from consentd_client.api.audit import list_customer_audit
from consentd_client.api.consent import get_consent, put_consent, withdraw_consent
from consentd_client.api.customers import create_customer
from consentd_client.api.permissions import get_permissions
from consentd_client.models import (
    ConsentDecision,
    ConsentState,
    ConsentStatus,
    ConsentTier,
    ConsentView,
    Customer,
    CustomerInput,
    CustomerTier,
    PageAuditEntry,
    Permission,
    Problem,
    Reason,
    Receipted,
    StorageCheck,
)
from consentd_client.types import UNSET

client = AuthenticatedClient(base_url=os.environ["CONSENTD_URL"], token=os.environ["CONSENTD_API_KEY"])

# A request that is sent again makes one customer.
newcomer = CustomerInput(email=f"{uuid4()}@example.com", tier=CustomerTier.PRO)
once = str(uuid4())
created = create_customer.sync(client=client, body=newcomer, idempotency_key=once)
again = create_customer.sync(client=client, body=newcomer, idempotency_key=once)
assert isinstance(created, Customer) and isinstance(again, Customer)
assert again.customer_id == created.customer_id
customer = created.customer_id

# Put.
given = put_consent.sync_detailed(
    customer,
    client=client,
    if_none_match="*",
    body=ConsentDecision(ConsentTier.ANALYTICS, can_store_embeddings=True, reason="asked for in the settings"),
)
assert given.status_code == HTTPStatus.CREATED
assert isinstance(given.parsed, Receipted) and given.parsed.version == 1

# Get.
read = get_consent.sync_detailed(customer, client=client)
assert isinstance(read.parsed, ConsentView)
assert read.parsed.status is ConsentStatus.ACTIVE
assert read.parsed.can_store_embeddings and not read.parsed.can_store_images
assert read.parsed.expires_at is None
version = read.headers["ETag"]
assert version == '"1"'

# Change that version, and then fail to change it once more: 412.
changed = put_consent.sync(customer, client=client, if_match=version, body=ConsentDecision(ConsentTier.BASIC))
assert isinstance(changed, Receipted) and changed.version == 2
stale = put_consent.sync_detailed(
    customer, client=client, if_match=version, body=ConsentDecision(ConsentTier.ANALYTICS)
)
assert stale.status_code == HTTPStatus.PRECONDITION_FAILED
assert isinstance(stale.parsed, Problem) and stale.parsed.type_ == "/problems/version-moved"
assert stale.headers["ETag"] == '"2"'

# Two pages of the trail, newest first.
actions: list[tuple[str, str]] = []
pages = 0
cursor: str | None = None
while pages == 0 or cursor is not None:
    page = list_customer_audit.sync(customer, client=client, limit=1, cursor=cursor or UNSET)
    assert isinstance(page, PageAuditEntry)
    pages += 1
    for entry in page.items:
        assert isinstance(entry.current, ConsentState)
        actions.append((entry.action.value, entry.current.consent_tier.value))
    cursor = page.next_cursor
assert pages == 2
assert actions == [("updated", "basic"), ("granted", "analytics")]

# What a check answers, its type tells.
check = get_permissions.sync(customer, client=client, check=Permission.EMBEDDINGS, min_version=2)
assert isinstance(check, StorageCheck)
assert not check.allowed and check.reason is Reason.NOT_GRANTED

# Withdraw.
withdrawn = withdraw_consent.sync(customer, client=client, if_match='"2"')
assert isinstance(withdrawn, Receipted)
assert withdrawn.status is ConsentStatus.WITHDRAWN and withdrawn.version == 3

# A problem as a type: every fault with its place and its rule.
problem = put_consent.sync(
    customer, client=client, body=ConsentDecision(ConsentTier.BASIC, can_store_images=True)
)
assert isinstance(problem, Problem)
assert problem.status == 422 and problem.type_ == "/problems/invalid-body"
assert [(fault.pointer, fault.code) for fault in problem.errors or []] == [
    ("/can_store_images", "not_allowed_by_tier")
]

print("openapi-python-client: the story holds")
