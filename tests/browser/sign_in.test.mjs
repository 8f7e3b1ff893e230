// Who gets in, where to, and for how long.

import assert from "node:assert/strict";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";
import { api, key } from "./service.mjs";

test("a wrong key is refused, and the right one leads to the page that was asked for", async (t) => {
  const page = await open(t);
  page.allowed = [/status of 401/];
  const wanted = "/console/audit?action=withdrawn&new_tier=none";
  await page.goto(wanted);
  assert.match(page.url(), /\/console\/sign-in\?next=/);
  assert.equal(await page.title(), "Sign in · consentd");

  const field = page.getByLabel("API key");
  assert.equal(await field.evaluate((field) => field === document.activeElement), true, "the key can be typed at once");
  await field.fill("vla_live_0000000000000000000000000000000000000000000");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").waitFor();
  assert.equal(await page.getByLabel("API key").getAttribute("aria-invalid"), "true");
  assert.equal(await page.getByLabel("API key").inputValue(), "", "a refused key is not sent back");

  await signIn(page, { at: wanted });
  assert.equal(await page.getByRole("heading", { level: 1 }).innerText(), "Audit trail");
});

test("after signing out, going back shows nothing", async (t) => {
  const page = await open(t);
  await signIn(page, { at: "/console/audit" });
  assert.ok((await page.locator("tbody tr").count()) > 0);
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL("**/console/sign-in");
  const kept = await page.context().cookies();
  assert.deepEqual(kept.filter(({ name }) => name.includes("session")), []);

  await page.goBack();
  await page.getByLabel("API key").waitFor();
  assert.equal(await page.getByRole("heading", { level: 1 }).innerText(), "Sign in");
  assert.equal(await page.locator("tbody tr").count(), 0);
});

test("the cookie is for this site's server alone", async (t) => {
  const page = await open(t);
  await signIn(page);
  const [session] = (await page.context().cookies()).filter(({ name }) => name.includes("session"));
  assert.deepEqual([session.httpOnly, session.sameSite, session.path], [true, "Strict", "/"]);
  assert.equal(await page.evaluate(() => document.cookie), "");
});

test("a revoked key ends the session at once", async (t) => {
  const page = await open(t);
  const made = await key("revoked by a test", "audit:read");
  await signIn(page, { key: made.api_key, at: "/console/audit" });
  await api(`/v1/api-keys/${made.key_id}`, { method: "DELETE" });
  // By a link, so that the script is what finds out.
  await page.getByRole("link", { name: "Overview", exact: true }).click();
  await page.waitForURL("**/console/sign-in?next=*");
  await page.getByLabel("API key").waitFor();
});

test("a key without the scope is told which one is missing", async (t) => {
  const page = await open(t);
  page.allowed = [/status of 403/];
  const made = await key("checks alone", "permissions:check");
  await page.goto("/console");
  await page.getByLabel("API key").fill(made.api_key);
  await page.getByRole("button", { name: "Sign in" }).click();
  assert.match(await page.getByRole("alert").innerText(), /audit:read/);
});

test("whoever may only read is shown no keys", async (t) => {
  const page = await open(t);
  page.allowed = [/status of 403/];
  const made = await key("reads alone", "audit:read");
  await signIn(page, { key: made.api_key });
  const places = await page.getByRole("navigation", { name: "Console" }).getByRole("link").allInnerTexts();
  assert.ok(!places.includes("API keys"), places.join(", "));
  const answer = await page.goto("/console/keys");
  assert.equal(answer.status(), 403);
  assert.match(await page.locator("main").innerText(), /scope admin/);
});
