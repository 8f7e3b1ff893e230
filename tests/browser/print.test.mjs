// Every page prints as a dated sheet: text on A4, without what only a screen has a use for.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";
import { CANARY_CUSTOMER, customer, link } from "./service.mjs";

const tool = (name, pdf, ...options) => execFileSync(name, [...options, "-", ...(name === "pdftotext" ? ["-"] : [])], { input: pdf, encoding: "utf8" });

/** Prints the page as it is, and answers its text and how many sheets it takes. */
async function print(page) {
  const pdf = await page.pdf({ format: "A4" });
  const facts = tool("pdfinfo", pdf);
  assert.match(facts, /Page size: +59\d(\.\d+)? x 84\d(\.\d+)? pts \(A4\)/);
  return { text: tool("pdftotext", pdf, "-layout"), sheets: Number(facts.match(/Pages: +(\d+)/)[1]), pdf };
}

async function onlyForScreens(page) {
  await page.emulateMedia({ media: "print" });
  const seen = await page.locator("nav a, button, form, .button, .skip").filter({ visible: true }).allInnerTexts();
  await page.emulateMedia({ media: null });
  return seen;
}

for (const scheme of ["light", "dark"]) {
  test(`the trail prints what the filter shows, for whom and as of when (${scheme})`, async (t) => {
    const page = await open(t, { scheme });
    await signIn(page, { at: "/console/audit?action=withdrawn&since=2026-05-01&until=2026-06-30" });
    assert.deepEqual(await onlyForScreens(page), []);
    const numbers = await page.locator("tbody td.number a").allInnerTexts();
    const { text, sheets } = await print(page);
    assert.match(text, /Audit trail/);
    assert.match(text, /action: withdrawn/);
    assert.match(text, /as of \d{4}-\d\d-\d\d \d\d:\d\dZ/);
    assert.match(text, /printed for /);
    for (const number of numbers) assert.match(text, new RegExp(`\\b${number}\\b`));
    assert.doesNotMatch(text, /Apply|Sign out|Older|Show names/);
    assert.ok(sheets <= Math.ceil(numbers.length / 10) + 1, `${numbers.length} entries take ${sheets} sheets`);
  });
}

test("a customer prints with the state, the whole timeline and what changed", async (t) => {
  const page = await open(t);
  await signIn(page, { at: `/console/customers/${CANARY_CUSTOMER}` });
  assert.deepEqual(await onlyForScreens(page), []);
  const { text } = await print(page);
  assert.match(text, new RegExp(CANARY_CUSTOMER));
  assert.match(text, /As it stands now/);
  assert.match(text, /window\.pwned/, "a reason stands as it was given");
  assert.match(text, /printed for /);
  assert.doesNotMatch(text, /Evidence pack|Record a withdrawal|Sign out/);
});

test("what is folded on the screen is unfolded on paper", async (t) => {
  const page = await open(t);
  await signIn(page, { at: `/console/audit?customer_id=${CANARY_CUSTOMER}` });
  const folded = page.locator("tbody details").first();
  assert.equal(await folded.evaluate((details) => details.open), false);
  const { text } = await print(page);
  assert.match(text, /embeddings/);
  assert.match(text, /not allowed/);
});

test("the customer's own page prints", async (t) => {
  const page = await open(t);
  await page.goto(await link(await customer({ consent_tier: "research", can_store_images: true })));
  assert.deepEqual(await onlyForScreens(page), []);
  const { text, sheets } = await print(page);
  assert.match(text, /Your consent/);
  assert.doesNotMatch(text, /Withdraw everything|Change my choices/);
  assert.ok(sheets <= 2);
});
