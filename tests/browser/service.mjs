// The service beside the browser: its API, and the customer in whose every field there is markup.

import assert from "node:assert/strict";

export const wanted = (name) => process.env[name] ?? assert.fail(`${name} is not set: run make browser-test`);
export const ADDRESS = wanted("CONSENTD_URL");
export const OPERATOR = wanted("CONSENTD_API_KEY");

// Text that would run if any page let it, in each of the places where markup can be.
export const CANARY = `"><script>window.pwned=1</script><img src=x onerror=window.pwned=1>'`;
// As much of it as fits into 64 characters.
export const SHORT_CANARY = `'"><img src=x onerror=window.pwned=1>`;
/** The customer in whose every field there is such text, and the request that wrote it. */
export const CANARY_CUSTOMER = "0badc0de-0000-4000-8000-000000000001";

/** Calls the API; where the machine is too busy for an answer, again. */
export async function api(path, { method, body, key = OPERATOR, headers = {} } = {}) {
  for (let tries = 1; ; tries++) {
    const answer = await fetch(ADDRESS + path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const bytes = Buffer.from(await answer.arrayBuffer());
    if (answer.status === 503 && tries < 20) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      continue;
    }
    assert.ok(answer.ok, `${path}: ${answer.status} ${bytes}`);
    return { bytes, json: () => JSON.parse(bytes) };
  }
}

/** A customer of one's own, with a consent if a decision is given. */
export async function customer(decision, company_name) {
  const customer_id = crypto.randomUUID();
  const email = `browser-${customer_id.slice(0, 8)}@example.com`;
  await api("/v1/customers", { body: { customer_id, email, company_name, tier: "pro" } });
  if (decision) await api(`/v1/customers/${customer_id}/consent`, { method: "PUT", body: decision });
  return customer_id;
}

/** The address at which a customer's page opens. */
export async function link(customer_id, body = {}) {
  return (await api(`/v1/customers/${customer_id}/consent-links`, { body })).json().path;
}

/** A key with these scopes and no other. */
export async function key(name, ...scopes) {
  const made = await api("/v1/api-keys", { body: { key_name: name, scopes } });
  return made.json();
}

/** Waits until the answer is not falsy. */
export async function until(what, ask, seconds = 15) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
    const answer = await ask();
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`after ${seconds} s still not: ${what}`);
}
