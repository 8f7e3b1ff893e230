// What the tests find beside the demo: a customer whose every stored field would run as a script if any page let it.

import { CANARY, CANARY_CUSTOMER, SHORT_CANARY, api, key } from "./service.mjs";

await api("/v1/customers", {
  body: { customer_id: CANARY_CUSTOMER, email: "canary@example.com", company_name: CANARY, tier: "enterprise" },
});
const writer = await key(CANARY, "consent:read", "consent:write", "audit:read");
const headers = { "user-agent": CANARY, "x-request-id": CANARY };
const consent = `/v1/customers/${CANARY_CUSTOMER}/consent`;
const said = { policy_version: SHORT_CANARY, reason: CANARY, on_behalf_of: CANARY };
await api(consent, { method: "PUT", key: writer.api_key, headers, body: { consent_tier: "research", can_store_images: true, can_use_for_training: true, ...said } });
await api(consent, { method: "PUT", key: writer.api_key, headers, body: { consent_tier: "analytics", can_store_embeddings: true, ...said } });
