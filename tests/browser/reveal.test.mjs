// Names of people and addresses are masked until somebody asks, and that they asked is on record.

import assert from "node:assert/strict";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";
import { api, customer, key } from "./service.mjs";

test("names are masked; asking shows them, and is an event of the log", async (t) => {
  const customer_id = await customer();
  const said = { consent_tier: "basic", on_behalf_of: "Rosalind Franklin" };
  await api(`/v1/customers/${customer_id}/consent`, { method: "PUT", body: said });
  const auditor = await key("an auditor", "audit:read");
  const page = await open(t);
  const at = `/console/audit?customer_id=${customer_id}`;
  await signIn(page, { key: auditor.api_key, at });
  assert.match(await page.locator("main").innerText(), /for R•••/);
  assert.doesNotMatch(await page.content(), /Rosalind/);

  await page.getByRole("link", { name: /^\d+$/ }).first().click();
  await page.getByRole("heading", { level: 2, name: "Context" }).waitFor();
  assert.match(await page.locator("main").innerText(), /127\.0\.•••/);
  assert.doesNotMatch(await page.content(), /Rosalind|127\.0\.0\.1/);
  const entry = new URL(page.url()).pathname;

  await page.getByRole("button", { name: "Show names" }).click();
  await page.waitForURL(/reveal=\d+$/);
  const shown = await page.locator("main").innerText();
  assert.match(shown, /Rosalind Franklin/);
  assert.match(shown, /127\.0\.0\.1/);

  const asked = Number(new URL(page.url()).searchParams.get("reveal"));
  const events = (await api("/v1/audit/events?kind=pii.read&limit=50")).json().items;
  const event = events.find(({ audit_id }) => audit_id === asked);
  assert.equal(event?.details.what, entry);
  assert.equal(event.changed_by, `key:${auditor.api_key.slice(0, 13)}`);

  // It holds for that page and that key alone.
  await page.goto(`${at}&reveal=${asked}`);
  assert.doesNotMatch(await page.content(), /Rosalind/);
  const other = await open(t);
  await signIn(other, { at: `${entry}?reveal=${asked}` });
  assert.doesNotMatch(await other.content(), /Rosalind/);
});

test("who looked at a customer is told there, and in the list of all who looked", async (t) => {
  const customer_id = await customer({ consent_tier: "basic" });
  const page = await open(t);
  const at = `/console/customers/${customer_id}`;
  await signIn(page, { at });
  assert.match(await page.locator("main").innerText(), /Nobody has asked for this customer's names/);
  assert.match(await page.locator("main").innerText(), /b•••@example\.com/);
  await page.getByRole("button", { name: "Show names" }).click();
  await page.waitForURL(/reveal=\d+$/);
  assert.match(await page.locator("main").innerText(), /browser-\w{8}@example\.com/);
  const looked = page.locator("section[aria-labelledby=looked] tbody tr");
  assert.equal(await looked.count(), 1);
  const event = new URL(page.url()).searchParams.get("reveal");
  await page.goto(`/console/access?customer_id=${customer_id}`);
  assert.equal(await page.locator("tbody tr").count(), 1);
  assert.match(await page.locator("tbody tr").innerText(), new RegExp(event));
});
