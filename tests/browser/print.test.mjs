// Every page prints as a dated sheet: text on A4, without what only a screen has a use for.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";

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
