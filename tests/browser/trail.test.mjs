// The audit trail: filtered, charted, walked, and taken away as a file.

import assert from "node:assert/strict";
import { test } from "node:test";
import { arrive, download, open, signIn } from "./house.mjs";
import { ADDRESS, api } from "./service.mjs";

const query = (page) => Object.fromEntries(new URL(page.url()).searchParams);
const chips = (page) => page.getByRole("list", { name: "Active filters" }).getByRole("listitem").filter({ hasNotText: "Remove all" });
const numbers = async (page) => (await page.locator("tbody tr td.number:first-child a").allInnerTexts()).map(Number);

test("filters narrow the list, a chip widens it, a bar narrows it to its span", async (t) => {
  const page = await open(t);
  await signIn(page, { at: "/console/audit" });
  await page.getByLabel("Action", { exact: true }).selectOption("granted");
  await page.getByLabel("Tier after").selectOption("research");
  await page.getByLabel("From", { exact: true }).fill("2026-01-01");
  await page.getByLabel("To, inclusive").fill("2026-06-30");
  await page.getByRole("button", { name: "Apply" }).click();
  await arrive(page, "**/console/audit?*");
  assert.deepEqual(query(page), { action: "granted", new_tier: "research", since: "2026-01-01", until: "2026-06-30" });
  assert.equal(await chips(page).count(), 4);
  const cells = await page.locator("tbody tr td .pill.act-granted").count();
  assert.equal(cells, await page.locator("table:has(caption) tbody tr").count());

  const expected = await api("/v1/audit?action=granted&new_tier=research&since=2026-01-01T00:00:00Z&until=2026-07-01T00:00:00Z&limit=50");
  assert.deepEqual(await numbers(page), expected.json().items.map((entry) => entry.audit_id));

  await page.getByRole("link", { name: "Remove the filter tier after" }).click();
  await arrive(page, (url) => !url.searchParams.has("new_tier"));
  assert.deepEqual(query(page), { action: "granted", since: "2026-01-01", until: "2026-06-30" });
  assert.equal(await page.getByLabel("Tier after").inputValue(), "");

  const bar = page.locator(".chart svg a").nth(3);
  const [, count] = (await bar.evaluate((bar) => bar.textContent)).match(/: ([\d,]+)/);
  const before = page.url();
  await bar.locator(".bar").click();
  await arrive(page, (url) => url.href !== before);
  const narrowed = query(page);
  assert.equal(narrowed.action, "granted");
  assert.ok(narrowed.since >= "2026-01-01" && narrowed.until <= "2026-06-30", JSON.stringify(narrowed));
  assert.match(await page.locator("main").innerText(), new RegExp(`\\b${count} entr`));
});

test("Older walks the list without a gap, and Newest returns", async (t) => {
  const page = await open(t);
  await signIn(page, { at: "/console/audit?until=2026-06-30&action=updated" });
  const first = await numbers(page);
  await page.getByRole("link", { name: "Older" }).click();
  await arrive(page, "**cursor=*");
  const second = await numbers(page);
  const expected = await api("/v1/audit?action=updated&until=2026-07-01T00:00:00Z&limit=100");
  assert.deepEqual([...first, ...second], expected.json().items.map((entry) => entry.audit_id));
  assert.equal(await page.getByLabel("Action", { exact: true }).inputValue(), "updated");
  await page.getByRole("link", { name: "Newest" }).click();
  await arrive(page, (url) => !url.searchParams.has("cursor"));
  assert.deepEqual(await numbers(page), first);
});

test("the files are byte for byte what the API gives of the same filter", async (t) => {
  const page = await open(t);
  await signIn(page, { at: "/console/audit?action=withdrawn&since=2025-10-01&until=2026-06-30" });
  const same = "/v1/audit?action=withdrawn&since=2025-10-01T00:00:00Z&until=2026-07-01T00:00:00Z";
  for (const [name, accept] of [["CSV", "text/csv"], ["NDJSON", "application/x-ndjson"]]) {
    const file = await download(page, () => page.getByRole("link", { name, exact: true }).click());
    const expected = await api(same, { headers: { accept } });
    assert.ok(expected.bytes.length > 1000);
    assert.ok(file.bytes.equals(expected.bytes), `${name}: ${file.bytes.length} bytes, and the API gives ${expected.bytes.length}`);
    assert.match(file.name, new RegExp(`\\.${name.toLowerCase()}$`));
  }
});

test("the link of a view can be copied", async (t) => {
  const page = await open(t);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"], { origin: ADDRESS });
  await signIn(page, { at: "/console/audit?action=expired" });
  await page.getByRole("button", { name: "Copy link" }).click();
  await page.getByText("The link was copied").waitFor({ state: "attached" });
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), page.url());
});

test("going back and forward keeps the filter, in its form and in the list", async (t) => {
  const page = await open(t);
  await signIn(page, { at: "/console/audit" });
  // Whatever loads the page anew forgets this: it is the script that goes back and forward.
  await page.evaluate(() => { window.stayed = true; });
  await page.getByLabel("Action", { exact: true }).selectOption("renewed");
  await page.getByRole("button", { name: "Apply" }).click();
  await arrive(page, "**action=renewed");
  const renewed = await numbers(page);
  await page.getByLabel("Tier before").selectOption("basic");
  await page.getByRole("button", { name: "Apply" }).click();
  await arrive(page, "**previous_tier=basic");
  const entry = page.locator("tbody tr td.number:first-child a").first();
  const heading = `Entry ${await entry.innerText()}`;
  await entry.click();
  await page.getByRole("heading", { level: 1, name: heading }).waitFor();

  const shows = async (action, tier) => {
    await page.waitForFunction(
      ([action, tier]) => document.getElementById("filter-action")?.value === action && document.getElementById("previous_tier")?.value === tier,
      [action, tier],
    );
  };
  await page.goBack();
  await shows("renewed", "basic");
  await page.goBack();
  await shows("renewed", "");
  assert.deepEqual(await numbers(page), renewed);
  await page.goBack();
  await shows("", "");
  await page.goForward();
  await shows("renewed", "");
  assert.deepEqual(query(page), { action: "renewed" });
  assert.equal(await page.evaluate(() => window.stayed), true);
});
