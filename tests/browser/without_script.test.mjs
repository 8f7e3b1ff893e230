// Without JavaScript everything works; it only takes whole pages.

import assert from "node:assert/strict";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";
import { api, customer } from "./service.mjs";

test("sign in, filter, page and open an entry without a script", async (t) => {
  const page = await open(t, { javaScript: false });
  await signIn(page, { at: "/console/audit" });
  await page.getByLabel("Action", { exact: true }).selectOption("granted");
  await page.getByLabel("To, inclusive").fill("2026-06-30");
  await page.getByRole("button", { name: "Apply" }).click();
  await page.waitForURL(/action=granted/);
  assert.equal(await page.getByLabel("Action", { exact: true }).inputValue(), "granted");
  assert.equal(await page.getByRole("list", { name: "Active filters" }).getByRole("link", { name: /^Remove the filter/ }).count(), 2);

  const first = await page.locator("table:has(caption) tbody tr").first().innerText();
  await page.getByRole("link", { name: "Older" }).click();
  await page.waitForURL(/cursor=/);
  assert.notEqual(await page.locator("table:has(caption) tbody tr").first().innerText(), first);

  const entry = page.locator("tbody tr td.number a").last();
  const number = await entry.innerText();
  await entry.click();
  await page.waitForURL(`**/console/audit/${number}`);
  assert.equal(await page.getByRole("heading", { level: 1 }).innerText(), `Entry ${number}`);
  await page.getByText("Raw JSON").click();
  await page.getByText("ask for them above").waitFor();
  await page.getByRole("button", { name: "Show names" }).click();
  await page.waitForURL(/reveal=\d+/);
  await page.getByText("Raw JSON").click();
  assert.equal(JSON.parse(await page.locator("details pre").innerText()).audit_id, Number(number));
});

test("look at a customer as of a day, and record a withdrawal, without a script", async (t) => {
  const id = await customer({ consent_tier: "research", can_store_images: true });
  const page = await open(t, { javaScript: false });
  await signIn(page, { at: "/console/customers" });
  await page.getByLabel("Customer id, its beginning").fill(id.slice(0, 8));
  await page.getByRole("button", { name: "Find" }).click();
  await page.waitForURL(/search=/);
  await page.getByRole("link", { name: id }).click();
  await page.waitForURL(`**/console/customers/${id}`);
  await page.getByLabel("As of the end of").fill("2020-01-31");
  await page.getByRole("button", { name: "Show", exact: true }).click();
  await page.getByRole("heading", { name: "As it stood at the end of 2020-01-31" }).waitFor();
  await page.getByRole("link", { name: "Now", exact: true }).click();
  await page.getByRole("link", { name: "Record a withdrawal" }).click();
  await page.getByLabel("Reason").fill("by letter");
  await page.getByRole("button", { name: "Withdraw everything" }).click();
  await page.getByText("The withdrawal is recorded").waitFor();
  const now = (await api(`/v1/customers/${id}/consent`)).json();
  assert.deepEqual([now.consent_tier, now.status], ["none", "withdrawn"]);
});
