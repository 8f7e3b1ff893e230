// The customer's own page: giving, withdrawing, undoing, in every language.

import assert from "node:assert/strict";
import { test } from "node:test";
import { download, open, tabTo } from "./house.mjs";
import { api, customer, link } from "./service.mjs";

const standing = async (id) => (await api(`/v1/customers/${id}/consent`)).json();

/** Counts what a hand does: each time a pointer goes down, on whatever page. */
async function counting(page) {
  let clicks = 0;
  await page.exposeBinding("clicked", () => { clicks += 1; });
  await page.addInitScript(() => addEventListener("pointerdown", (event) => { if (event.isTrusted) clicked(); }, true));
  return () => { const made = clicks; clicks = 0; return made; };
}

const ENGLISH = { choose: "Make my choice", change: "Change my choices", save: "Save my choice", withdraw: "Withdraw everything", undo: "Undo the withdrawal" };

test("withdrawing takes one click, and never more than giving; it can be undone", async (t) => {
  const id = await customer();
  const page = await open(t);
  const clicks = await counting(page);
  const button = (name) => page.getByRole("button", { name: ENGLISH[name], exact: true });
  await page.goto(await link(id));
  assert.equal(new URL(page.url()).search, "", "what opens the page is not left in its address");
  assert.equal(await button("withdraw").count(), 0);

  await button("choose").click();
  await page.waitForURL("**/my/consent/choices*");
  assert.equal(await page.locator(":checked").count(), 0, "nothing is chosen before somebody chose it");
  await page.locator("label[for=tier-analytics]").click();
  await button("save").click();
  await page.waitForURL("**/my/consent/entries/*");
  const giving = clicks();
  assert.equal((await standing(id)).consent_tier, "analytics");

  await page.goto("/my/consent");
  const [withdraw, change] = await Promise.all(["withdraw", "change"].map((name) => button(name).boundingBox()));
  assert.deepEqual([withdraw.width, withdraw.height], [change.width, change.height], "both ways have the same size");
  const looks = (name) =>
    button(name).evaluate((button) => {
      const { color, backgroundColor, fontWeight, fontSize, borderColor, borderWidth } = getComputedStyle(button);
      return { color, backgroundColor, fontWeight, fontSize, borderColor, borderWidth };
    });
  assert.deepEqual(await looks("withdraw"), await looks("change"), "and the same weight");
  clicks();
  await button("withdraw").click();
  await page.getByRole("status").waitFor();
  const withdrawing = clicks();
  assert.equal((await standing(id)).status, "withdrawn");
  assert.equal(withdrawing, 1);
  assert.ok(withdrawing <= giving, `withdrawing takes ${withdrawing} clicks, giving ${giving}`);

  await button("undo").click();
  await page.waitForURL("**/my/consent/entries/*");
  const again = await standing(id);
  assert.deepEqual([again.consent_tier, again.status], ["analytics", "active"]);
});

test("the page speaks the browser's language, and the one that is chosen from the menu", async (t) => {
  const id = await customer({ consent_tier: "basic" });
  const names = { en: "Your consent", de: "Ihre Einwilligung", fr: "Votre consentement", es: "Su consentimiento" };
  const page = await open(t, { language: "fr-CH" });
  await page.goto(await link(id));
  const spoken = async () => [await page.locator("html").getAttribute("lang"), await page.getByRole("heading", { level: 1 }).innerText()];
  assert.deepEqual(await spoken(), ["fr", names.fr]);
  for (const [language, name] of Object.entries(names)) {
    await page.locator(`header a[lang=${language}]`).click();
    await page.waitForURL(`**lang=${language}`);
    assert.deepEqual(await spoken(), [language, name]);
    assert.equal(await page.locator("header a[aria-current]").getAttribute("lang"), language);
    // It stays, without the address saying so.
    await page.goto("/my/consent/history");
    assert.equal(await page.locator("html").getAttribute("lang"), language);
    await page.goto("/my/consent");
  }
});

test("the own history is what the API exports, and the receipt is there", async (t) => {
  const id = await customer({ consent_tier: "research", can_store_images: true });
  const page = await open(t);
  await page.goto(await link(id));
  const file = await download(page, () => page.locator('a[href$="history.csv"]').first().click());
  const expected = await api(`/v1/customers/${id}/consent/audit`, { headers: { accept: "text/csv" } });
  assert.ok(file.bytes.equals(expected.bytes));
  await page.goto("/my/consent/history");
  await page.locator('a[href^="/my/consent/entries/"]').first().click();
  await page.locator("pre").first().waitFor();
});

test("choose and withdraw by keyboard alone, without a script", async (t) => {
  const id = await customer();
  const page = await open(t, { javaScript: false });
  await page.goto(await link(id));
  await tabTo(page, page.getByRole("button", { name: ENGLISH.choose }));
  await page.keyboard.press("Enter");
  await page.waitForURL("**/my/consent/choices*");
  await tabTo(page, page.locator("#tier-none"));
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.locator("#tier-analytics").isChecked(), true);
  await tabTo(page, page.locator("#embeddings"));
  await page.keyboard.press("Space");
  await tabTo(page, page.getByRole("button", { name: ENGLISH.save }));
  await page.keyboard.press("Enter");
  await page.waitForURL("**/my/consent/entries/*");
  assert.equal((await standing(id)).can_store_embeddings, true);
  await page.goto("/my/consent");
  await tabTo(page, page.getByRole("button", { name: ENGLISH.withdraw }));
  await page.keyboard.press("Enter");
  await page.getByRole("status").waitFor();
  assert.equal((await standing(id)).status, "withdrawn");
});

test("a link that was revoked opens nothing any more, also where it is open", async (t) => {
  const id = await customer({ consent_tier: "basic" });
  const made = (await api(`/v1/customers/${id}/consent-links`, { body: {} })).json();
  const page = await open(t);
  page.allowed = [/status of 410/];
  await page.goto(made.path);
  await api(`/v1/customers/${id}/consent-links/${made.link_id}`, { method: "DELETE" });
  await page.getByRole("button", { name: ENGLISH.withdraw }).click();
  await page.waitForLoadState();
  assert.equal(await page.getByRole("button", { name: ENGLISH.withdraw }).count(), 0);
  assert.equal((await standing(id)).consent_tier, "basic");
});
