// Without JavaScript everything works; it only takes whole pages.

import assert from "node:assert/strict";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";

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
