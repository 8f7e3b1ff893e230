// The state of the log, verified when somebody asks; and the keys, each shown once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";
import { OPERATOR, api, key } from "./service.mjs";

const last = async () => (await api("/v1/audit/log/status")).json().last_verification;

test("the log is verified when somebody asks, and the badge tells", async (t) => {
  const page = await open(t);
  await signIn(page, { at: "/console/integrity" });
  const before = (await last())?.started_at ?? "";
  await page.getByRole("button", { name: "Verify now" }).click();
  // While it runs the page looks again by itself.
  await page.getByText("A verification runs").waitFor({ state: "detached", timeout: 60_000 });
  await page.getByRole("button", { name: "Verify now" }).waitFor({ timeout: 60_000 });
  const verified = await last();
  assert.ok(verified.started_at > before, `${verified.started_at} is not after ${before}`);
  assert.equal(verified.result, "clean");
  assert.match(await page.locator(".badge").innerText(), /✓ Verified/);
  assert.match(await page.locator("main").innerText(), /Nothing was edited, removed, added or reordered/);
});

test("a key is made, shown once, and revoked", async (t) => {
  const page = await open(t);
  const admin = await key("for a test of keys", "admin", "audit:read", "permissions:check");
  await signIn(page, { key: admin.api_key, at: "/console/keys" });
  assert.doesNotMatch(await page.content(), new RegExp(OPERATOR));
  const name = `made in a browser ${crypto.randomUUID().slice(0, 8)}`;
  await page.getByLabel("What it is for").fill(name);
  await page.getByRole("checkbox", { name: "permissions:check", exact: true }).check();
  await page.getByRole("button", { name: "Make the key" }).click();
  const secret = await page.locator("#secret").inputValue();
  const asked = () => fetch(new URL("/v1/permissions/check", page.url()), { method: "POST", headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" }, body: "{}" });
  assert.notEqual((await asked()).status, 401);

  await page.getByRole("link", { name: "I have copied it" }).click();
  assert.doesNotMatch(await page.content(), new RegExp(secret));
  await page.getByRole("link", { name }).click();
  await page.getByRole("heading", { level: 1, name }).waitFor();
  await page.getByRole("checkbox", { name: "I am sure" }).check();
  await page.getByRole("button", { name: "Revoke the key" }).click();
  await page.getByText("revoked").first().waitFor();
  assert.equal((await asked()).status, 401);
});
