// What a settings page does: shows a customer's consent, allows embeddings, and shows what was changed when and by whom.
//
//     CONSENTD_URL=http://127.0.0.1:8080 CONSENTD_API_KEY=vla_live_… npm run dashboard -- CUSTOMER_ID
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/consentd.js";

type Problem = components["schemas"]["Problem"];
type Page = components["schemas"]["Page_AuditEntry"];

const client = createClient<paths, "application/json" | "application/problem+json">({
  baseUrl: process.env.CONSENTD_URL ?? "http://127.0.0.1:8080",
  headers: { Authorization: `Bearer ${process.env.CONSENTD_API_KEY}` },
});
const path = { customer_id: process.argv[2] ?? "" };

function fail(problem?: Problem): never {
  for (const fault of problem?.errors ?? []) {
    console.error(`${fault.pointer ?? fault.parameter}: ${fault.detail}`);
  }
  throw new Error(problem?.detail ?? "no answer");
}

async function allowEmbeddings() {
  // Somebody else may decide at the same time: then their decision is read, and this one made anew.
  for (;;) {
    const { data: consent, error, response } = await client.GET("/v1/customers/{customer_id}/consent", { params: { path } });
    if (!consent) fail(error);
    console.log(`version ${consent.version}: ${consent.consent_tier}, ${consent.status}`);
    const changed = await client.PUT("/v1/customers/{customer_id}/consent", {
      params: { path, header: { "If-Match": response.headers.get("ETag") ?? "" } },
      // A decision replaces the whole consent: what stays is said too.
      body: {
        consent_tier: consent.consent_tier === "research" ? "research" : "analytics",
        can_store_images: consent.can_store_images,
        can_store_embeddings: true,
        can_use_for_training: consent.can_use_for_training,
        anonymization_level: consent.anonymization_level,
        expires_at: consent.status === "active" ? consent.expires_at : null,
        policy_version: consent.policy_version,
        reason: "asked for in the settings",
        on_behalf_of: "user-17",
      },
    });
    if (changed.data) return changed.data;
    if (changed.error.type !== "/problems/version-moved") fail(changed.error);
  }
}

async function* trail() {
  let cursor: string | null = null;
  do {
    const page: { data?: Page; error?: Problem } = await client.GET("/v1/customers/{customer_id}/consent/audit", {
      params: { path, query: { limit: 50, ...(cursor && { cursor }) } },
    });
    if (!page.data) fail(page.error);
    yield* page.data.items;
    cursor = page.data.next_cursor;
  } while (cursor);
}

const consent = await allowEmbeddings();
console.log(`version ${consent.version}: ${consent.consent_tier}, embeddings may be kept`);
for await (const entry of trail()) {
  console.log(`${entry.timestamp}  ${entry.action} (${entry.new_tier}) by ${entry.changed_by ?? "someone"}`);
}
