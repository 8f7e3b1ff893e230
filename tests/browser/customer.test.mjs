// One customer: what stood when, what can be taken away, and a withdrawal that holds at once.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { arrive, download, open, signIn } from "./house.mjs";
import { api, customer } from "./service.mjs";

/** A customer of the demo who changed often, and still consents. */
async function manyChanges() {
  const { items } = (await api("/v1/audit?until=2026-06-30T00:00:00Z&since=2026-04-01T00:00:00Z&limit=500")).json();
  const counts = new Map();
  for (const { customer_id } of items) counts.set(customer_id, (counts.get(customer_id) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a)[0][0];
}

/** A name and what stands beside it, of what the page says stood. */
async function stood(page) {
  const pairs = await page.locator("#main section[aria-labelledby=stands] dl > div").evaluateAll((all) =>
    all.map((pair) => [pair.querySelector("dt").innerText, pair.querySelector("dd").innerText.trim()]),
  );
  return Object.fromEntries(pairs);
}

test("as of a day is what the API says of the end of that day, and one can step from change to change", async (t) => {
  const id = await manyChanges();
  const page = await open(t);
  await signIn(page, { at: `/console/customers/${id}` });
  await page.getByLabel("As of the end of").fill("2026-06-30");
  await page.getByRole("button", { name: "Show", exact: true }).click();
  await arrive(page, "**as_of=2026-06-30");
  await page.getByRole("heading", { name: "As it stood at the end of 2026-06-30 (UTC)" }).waitFor();
  assert.equal(await page.getByLabel("As of the end of").inputValue(), "2026-06-30");

  const same = async (instant) => {
    const then = (await api(`/v1/customers/${id}/consent?as_of=${instant}`)).json();
    const shown = await stood(page);
    const allowed = (yes) => new RegExp(then.status === "active" && yes ? "✓ allowed" : "– not allowed");
    assert.equal(shown.Tier, then.consent_tier);
    assert.equal(shown.Anonymisation, then.anonymization_level);
    const inWords = { active: "in force", expired: "expired", withdrawn: "withdrawn" };
    assert.match(shown.Status, new RegExp(inWords[then.status]));
    assert.match(shown.Images, allowed(then.can_store_images));
    assert.match(shown.Embeddings, allowed(then.can_store_embeddings));
    assert.match(shown.Training, allowed(then.can_use_for_training));
    assert.match(shown.Version, new RegExp(`^${then.version}, entry ${then.audit_id}$`));
    return then;
  };
  const then = await same("2026-06-30T23:59:59.999999Z");

  await page.getByRole("link", { name: "Change before" }).click();
  await arrive(page, (url) => url.searchParams.get("as_of") !== "2026-06-30");
  const before = await same(new URL(page.url()).searchParams.get("as_of"));
  assert.equal(before.version, then.version - 1);
  await page.getByRole("link", { name: "Change after" }).click();
  await arrive(page, (url) => url.searchParams.get("as_of") === then.consent_updated_at || url.searchParams.get("as_of") > before.consent_updated_at);
  assert.equal((await same(new URL(page.url()).searchParams.get("as_of"))).version, then.version);
  await page.getByRole("link", { name: "Now", exact: true }).click();
  await arrive(page, `**/console/customers/${id}`);
});

test("the evidence packs are whole", async (t) => {
  const id = await manyChanges();
  const page = await open(t);
  await signIn(page, { at: `/console/customers/${id}` });
  const directory = await mkdtemp(join(tmpdir(), "consentd-evidence."));
  t.after(() => rm(directory, { recursive: true }));
  const packs = [`/console/customers/${id}`, "/console/audit?action=withdrawn&since=2026-06-01&until=2026-06-30"];
  for (const [number, at] of packs.entries()) {
    await page.goto(at);
    const pack = await download(page, () => page.getByRole("link", { name: "Evidence pack" }).click());
    assert.match(pack.name, /\.zip$/);
    const place = join(directory, `pack-${number}`);
    await writeFile(`${place}.zip`, pack.bytes);
    execFileSync("python3", ["-m", "zipfile", "-e", `${place}.zip`, place]);
    const sums = execFileSync("find", [place, "-name", "SHA256SUMS"], { encoding: "utf8" }).trim();
    execFileSync("sha256sum", ["--check", "--strict", "--quiet", "SHA256SUMS"], { cwd: join(sums, "..") });

    // The report is a page too, and loads nothing.
    const report = await open(t, { javaScript: false });
    await report.goto(`file://${join(sums, "..", "report.html")}`);
    report.allowed = [/^request to file:/];
    assert.ok((await report.locator("main, body").first().innerText()).length > 200);
  }
});

test("a withdrawal is recorded with its reason, is in the trail, and holds at once", async (t) => {
  const id = await customer({ consent_tier: "analytics", can_store_embeddings: true });
  const allowed = async () => (await api(`/v1/customers/${id}/consent/permissions?check=embeddings`)).json().allowed;
  assert.equal(await allowed(), true);
  const page = await open(t);
  page.allowed = [/status of 400/];
  await signIn(page, { at: `/console/customers/${id}` });
  await page.getByRole("link", { name: "Record a withdrawal" }).click();
  await page.getByRole("heading", { level: 1, name: "Record a withdrawal" }).waitFor();

  // The browser asks for a reason itself; where it does not, the service does.
  await page.getByRole("button", { name: "Withdraw everything" }).click();
  assert.equal(await page.getByLabel("Reason").evaluate((reason) => reason.validity.valueMissing), true);
  await page.locator("form[action$=withdrawal]").evaluate((form) => { form.noValidate = true; });
  await page.getByRole("button", { name: "Withdraw everything" }).click();
  await page.getByRole("alert").waitFor();
  assert.equal(await allowed(), true);

  await page.getByLabel("Reason").fill("by telephone, 14 May");
  await page.getByRole("button", { name: "Withdraw everything" }).click();
  await page.getByRole("status").getByText("The withdrawal is recorded").waitFor();
  assert.equal(await allowed(), false);

  await page.getByRole("status").getByRole("link", { name: /^entry / }).click();
  await page.getByRole("heading", { level: 1, name: /^Entry / }).waitFor();
  assert.match(await page.locator("main").innerText(), /by telephone, 14 May/);
  await page.goto(`/console/audit?customer_id=${id}&action=withdrawn`);
  assert.equal(await page.locator("table:has(caption) tbody tr").count(), 1);
  await page.goto(`/console/customers/${id}`);
  assert.equal(await page.getByRole("link", { name: "Record a withdrawal" }).count(), 0);
});
