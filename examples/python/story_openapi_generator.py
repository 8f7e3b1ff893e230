"""The story that every client is checked by, told with openapi-generator's Python client."""

import os
from uuid import uuid4

from consentd_openapi import (
    ApiClient,
    AuditApi,
    ConsentApi,
    ConsentDecision,
    ConsentStatus,
    ConsentTier,
    Configuration,
    CustomerInput,
    CustomersApi,
    CustomerTier,
    Permission,
    PermissionCheck,
    PermissionsApi,
    Problem,
    Reason,
    StorageCheck,
)
from consentd_openapi.exceptions import ApiException

client = ApiClient(Configuration(host=os.environ["CONSENTD_URL"], access_token=os.environ["CONSENTD_API_KEY"]))
consents = ConsentApi(client)

# A request that is sent again makes one customer.
newcomer = CustomerInput(email=f"{uuid4()}@example.com", tier=CustomerTier.PRO)
once = str(uuid4())
created = CustomersApi(client).create_customer(newcomer, idempotency_key=once)
again = CustomersApi(client).create_customer(newcomer, idempotency_key=once)
assert again.customer_id == created.customer_id
customer = created.customer_id

# Put.
given = consents.put_consent_with_http_info(
    customer,
    ConsentDecision(
        consent_tier=ConsentTier.ANALYTICS, can_store_embeddings=True, reason="asked for in the settings"
    ),
    if_none_match="*",
)
assert given.status_code == 201
assert given.data.version == 1

# Get.
read = consents.get_consent_with_http_info(customer)
assert read.data.status is ConsentStatus.ACTIVE
assert read.data.can_store_embeddings and not read.data.can_store_images
assert read.data.expires_at is None
assert read.headers is not None
version = read.headers["etag"]
assert version == '"1"'

# Change that version, and then fail to change it once more: 412.
changed = consents.put_consent(customer, ConsentDecision(consent_tier=ConsentTier.BASIC), if_match=version)
assert changed.version == 2
try:
    consents.put_consent(customer, ConsentDecision(consent_tier=ConsentTier.ANALYTICS), if_match=version)
    raise AssertionError("a version that has moved was changed")
except ApiException as refusal:
    assert refusal.status == 412
    assert isinstance(refusal.data, Problem) and refusal.data.type == "/problems/version-moved"
    assert refusal.headers is not None and refusal.headers["ETag"] == '"2"'

# Two pages of the trail, newest first.
actions: list[tuple[str, str]] = []
pages = 0
cursor: str | None = None
while pages == 0 or cursor is not None:
    page = AuditApi(client).list_customer_audit(customer, limit=1, cursor=cursor)
    pages += 1
    for entry in page.items:
        assert entry.current is not None
        actions.append((entry.action.value, entry.current.consent_tier.value))
    cursor = page.next_cursor
assert pages == 2
assert actions == [("updated", "basic"), ("granted", "analytics")]

# What a check answers, its type tells.
answer = PermissionsApi(client).get_permissions(customer, check=Permission.EMBEDDINGS, min_version=2).actual_instance
assert isinstance(answer, PermissionCheck)
check = answer.actual_instance
assert isinstance(check, StorageCheck)
assert not check.allowed and check.reason is Reason.NOT_GRANTED

# Withdraw.
withdrawn = consents.withdraw_consent(customer, if_match='"2"')
assert withdrawn.status is ConsentStatus.WITHDRAWN and withdrawn.version == 3

# A problem as a type: every fault with its place and its rule.
try:
    consents.put_consent(customer, ConsentDecision(consent_tier=ConsentTier.BASIC, can_store_images=True))
    raise AssertionError("a consent that its tier does not allow was taken")
except ApiException as refusal:
    problem = refusal.data
assert isinstance(problem, Problem)
assert problem.status == 422 and problem.type == "/problems/invalid-body"
assert [(fault.pointer, fault.code) for fault in problem.errors or []] == [
    ("/can_store_images", "not_allowed_by_tier")
]

print("openapi-generator (Python): the story holds")
