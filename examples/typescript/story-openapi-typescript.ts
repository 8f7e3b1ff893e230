// The story that every client is checked by, told with openapi-typescript and openapi-fetch.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/consentd.js";

const { CONSENTD_URL, CONSENTD_API_KEY } = process.env;
assert(CONSENTD_URL && CONSENTD_API_KEY, "CONSENTD_URL and CONSENTD_API_KEY say where the service is");

// The trail can be had as CSV too: whoever does not want it says so here.
const client = createClient<paths, "application/json" | "application/problem+json">({
  baseUrl: CONSENTD_URL,
  headers: { Authorization: `Bearer ${CONSENTD_API_KEY}` },
});

// A request that is sent again makes one customer.
const once = { "Idempotency-Key": randomUUID() };
const newcomer = { email: `${randomUUID()}@example.com`, tier: "pro" } as const;
const created = await client.POST("/v1/customers", { body: newcomer, params: { header: once } });
const again = await client.POST("/v1/customers", { body: newcomer, params: { header: once } });
assert.equal(created.response.status, 201);
assert(created.data);
assert.equal(again.data?.customer_id, created.data.customer_id);
const path = { customer_id: created.data.customer_id };
const consent = "/v1/customers/{customer_id}/consent" as const;

// Put.
const given = await client.PUT(consent, {
  params: { path, header: { "If-None-Match": "*" } },
  body: { consent_tier: "analytics", can_store_embeddings: true, reason: "asked for in the settings" },
});
assert.equal(given.response.status, 201);
assert.equal(given.data?.version, 1);

// Get.
const { data: read, response } = await client.GET(consent, { params: { path } });
assert(read);
assert.equal(read.status, "active");
assert.equal(read.can_store_embeddings, true);
assert.equal(read.can_store_images, false);
assert.equal(read.expires_at, null);
const version = response.headers.get("ETag");
assert.equal(version, '"1"');

// Change that version, and then fail to change it once more: 412.
const change = { params: { path, header: { "If-Match": version } }, body: { consent_tier: "basic" } as const };
const changed = await client.PUT(consent, change);
assert.equal(changed.response.status, 200);
assert.equal(changed.data?.version, 2);
const stale = await client.PUT(consent, { ...change, body: { consent_tier: "analytics" } });
assert.equal(stale.response.status, 412);
assert.equal(stale.error?.type, "/problems/version-moved");
assert.equal(stale.response.headers.get("ETag"), '"2"');

// Two pages of the trail, newest first.
const actions: string[] = [];
let pages = 0;
let cursor: string | null = null;
do {
  const page: { data?: components["schemas"]["Page_AuditEntry"] } = await client.GET(`${consent}/audit`, {
    params: { path, query: { limit: 1, ...(cursor && { cursor }) } },
  });
  assert(page.data);
  pages += 1;
  actions.push(...page.data.items.map((entry) => `${entry.action}: ${entry.current?.consent_tier}`));
  cursor = page.data.next_cursor;
} while (cursor);
assert.equal(pages, 2);
assert.deepEqual(actions, ["updated: basic", "granted: analytics"]);

// What a check answers, `permission` tells.
const check = await client.GET(`${consent}/permissions`, {
  params: { path, query: { check: "embeddings", min_version: 2 } },
});
assert(check.data && "permission" in check.data && check.data.permission !== "anonymization_level");
assert.equal(check.data.allowed, false);
assert.equal(check.data.reason, "not_granted");

// Withdraw.
const withdrawn = await client.DELETE(consent, { params: { path, header: { "If-Match": '"2"' } } });
assert.equal(withdrawn.data?.status, "withdrawn");
assert.equal(withdrawn.data.version, 3);

// A problem as a type: every fault with its place and its rule.
const { error: problem } = await client.PUT(consent, {
  params: { path },
  body: { consent_tier: "basic", can_store_images: true },
});
assert.equal(problem?.status, 422);
assert.equal(problem.type, "/problems/invalid-body");
assert.deepEqual(
  problem.errors?.map(({ pointer, code }) => [pointer, code]),
  [["/can_store_images", "not_allowed_by_tier"]],
);

console.log("openapi-typescript with openapi-fetch: the story holds");
