// Without a pointing device: every stop of the focus on the way is looked at by tabTo.

import assert from "node:assert/strict";
import { test } from "node:test";
import { arrive, open, tabTo } from "./house.mjs";
import { OPERATOR } from "./service.mjs";

const focusIn = (page, selector) => page.evaluate((selector) => document.activeElement?.matches(selector), selector);

async function byKeyboard(page, path) {
  await page.goto(path);
  // The field has the focus without anything being done.
  await page.locator("#key:focus").waitFor();
  await page.keyboard.type(OPERATOR);
  await page.keyboard.press("Enter");
  await page.waitForURL((url) => url.pathname + url.search === path);
}

test("sign in, filter, open an entry and go back by keyboard alone", async (t) => {
  const page = await open(t);
  await byKeyboard(page, "/console/audit");

  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  const skip = await page.locator(".skip").boundingBox();
  assert.ok(skip.x >= 0 && skip.y >= 0, "the skip link is seen when it has the focus");
  await page.keyboard.press("Enter");
  assert.ok(await focusIn(page, "#main"), "the skip link leads to the content");

  await tabTo(page, page.getByLabel("Action", { exact: true }));
  // Typed, as a list of choices takes it.
  await page.keyboard.type("exp");
  assert.equal(await page.getByLabel("Action", { exact: true }).inputValue(), "expired");
  await tabTo(page, page.getByRole("button", { name: "Apply" }));
  await page.keyboard.press("Enter");
  await arrive(page, "**action=expired");
  assert.ok(await focusIn(page, "#main"), "after the content was exchanged, the focus is there");
  assert.equal(await page.locator("#said").innerText(), await page.title(), "what is shown now is said");

  await tabTo(page, page.locator("table:has(caption) tbody tr td.number a").first());
  await page.keyboard.press("Enter");
  await arrive(page, /\/console\/audit\/\d+$/);
  assert.ok(await focusIn(page, "#main"));
  // The key for it is the browser's own, and a browser without a window has none.
  await page.goBack();
  await arrive(page, "**action=expired");

  await page.getByRole("heading", { level: 1, name: "Audit trail" }).waitFor();
  await tabTo(page, page.getByRole("button", { name: "Sign out" }), { back: true });
  await page.keyboard.press("Enter");
  await page.waitForURL("**/console/sign-in");
});

test("what a chart's bars lead to is reached by keyboard in the table behind it", async (t) => {
  const page = await open(t);
  await byKeyboard(page, "/console/audit?until=2026-06-30");
  const bars = await page.locator(".chart svg a").evaluateAll((bars) => bars.map((bar) => bar.href.baseVal));
  const table = page.locator(".chart details");
  await tabTo(page, table.locator("summary"));
  await page.keyboard.press("Enter");
  const rows = table.locator("tbody a");
  assert.deepEqual(await rows.evaluateAll((rows) => rows.map((row) => row.getAttribute("href"))), bars);
  await tabTo(page, rows.nth(1));
  await page.keyboard.press("Enter");
  await arrive(page, "**since=*");
});
