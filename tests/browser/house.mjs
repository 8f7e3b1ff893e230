// What the tests of the pages share: the browser, and what must hold of every page.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after } from "node:test";
import { ADDRESS, OPERATOR, wanted } from "./service.mjs";

// The tools are installed by make into .ci/tools, with the versions that are pinned there.
const tool = createRequire(new URL("../../.ci/tools/package.json", import.meta.url));
const { chromium } = tool("playwright-core");

// Debian's Chromium, and nothing that it would do beside showing a page. No name but the machine's own is looked up.
let launched;
async function browser() {
  launched ??= chromium.launch({
    executablePath: wanted("CONSENTD_BROWSER"),
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ],
  });
  return launched;
}
after(async () => (await launched)?.close());

/**
 * A page in a browser that nobody has used before. Whatever is wrong with what it loads or runs fails the test: a violation
 * of the policy, an error of a script, a request to elsewhere. `page.allowed` holds patterns of those that are meant.
 */
export async function open(t, { scheme = "light", width = 1240, height = 800, javaScript = true, language = "en" } = {}) {
  const context = await (await browser()).newContext({
    baseURL: ADDRESS,
    colorScheme: scheme,
    viewport: { width, height },
    javaScriptEnabled: javaScript,
    locale: language,
    timezoneId: "UTC",
    reducedMotion: "reduce",
  });
  context.setDefaultTimeout(10_000);
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.effectiveDirective} ${event.blockedURI} ${event.sample} on ${location.pathname}`);
    });
  });
  const faults = [];
  context.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${ADDRESS}/`) && !/^(about|blob|data):/.test(url)) faults.push(`request to ${url}`);
  });
  context.on("weberror", (error) => faults.push(`error: ${error.error()}`));
  context.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) faults.push(`console: ${message.text()} (${message.location().url})`);
  });
  context.on("dialog", (dialog) => {
    faults.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  const page = await context.newPage();
  page.allowed = [];
  page.faults = () => faults.splice(0).filter((fault) => !page.allowed.some((pattern) => pattern.test(fault)));
  t.after(async () => {
    await context.close();
    assert.deepEqual(page.faults(), []);
  });
  return page;
}

/** Signs in by the form, and waits for the page that was wanted. */
export async function signIn(page, { key = OPERATOR, at = "/console" } = {}) {
  await page.goto(at);
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL((url) => url.pathname + url.search === at);
  return page;
}

/** Waits until what was clicked has brought the page to this address, with the script or without. */
export async function arrive(page, address) {
  await page.waitForURL(address);
  await page.waitForFunction(() => !document.documentElement.hasAttribute("aria-busy"));
}

/** Does something that starts a download, and answers its name and its bytes. */
export async function download(page, act) {
  const [file] = await Promise.all([page.waitForEvent("download"), act()]);
  const chunks = [];
  for await (const chunk of await file.createReadStream()) chunks.push(chunk);
  return { name: file.suggestedFilename(), bytes: Buffer.concat(chunks) };
}

/** Presses Tab, or Shift and Tab, until this has the focus. Each stop on the way must be seen to have it. */
export async function tabTo(page, locator, { back = false, most = 80 } = {}) {
  for (let presses = 0; presses <= most; presses++) {
    const stop = await page.evaluate(() => {
      const focused = document.activeElement;
      if (!focused || focused === document.body) return null;
      const style = getComputedStyle(focused);
      const box = focused.getBoundingClientRect();
      return {
        text: focused.outerHTML.slice(0, 100),
        main: focused.id === "main",
        marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        inside: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
      };
    });
    if (stop && !stop.main) {
      assert.ok(stop.marked, `the focus cannot be seen on ${stop.text}`);
      assert.ok(stop.inside, `the focus is outside of what is seen on ${stop.text}`);
    }
    if (await locator.evaluateAll((all) => all.includes(document.activeElement))) return;
    await page.keyboard.press(back ? "Shift+Tab" : "Tab");
  }
  assert.fail(`${locator} does not come to the focus within ${most} presses of Tab`);
}

const axe = tool("axe-core").source;

/** What axe-core holds against the page as it is now: all of WCAG 2.2 to AA, and what it calls best practice. */
export async function barriers(page) {
  // By evaluating it: the page's own policy would let no script in.
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
    return (await axe.run(document, { runOnly: tags, resultTypes: ["violations"] })).violations;
  });
  return found.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target.join(" ")}: ${node.failureSummary}`));
}

const { HtmlValidate } = tool("html-validate");
const validator = new HtmlValidate({
  root: true,
  extends: ["html-validate:recommended"],
  rules: {
    // As HTML's own standard writes it.
    "doctype-style": ["error", { style: "lowercase" }],
    // A button in a form sends it, unless it says that it does something else.
    "no-implicit-button-type": "off",
    // An API key is nobody's password: a browser is not to keep it.
    "autocomplete-password": "off",
    // Text is what an input takes that says nothing else.
    "no-implicit-input-type": "off",
    // What scrolls by itself is a region, so that it can be reached by keyboard, and need not be a section of the text.
    "prefer-native-element": ["error", { exclude: ["region"] }],
    // A list may have a name.
    "aria-label-misuse": ["error", { allowAnyNamable: true }],
  },
});

/** What html-validate holds against markup as it was served. */
export async function misuses(markup) {
  const report = await validator.validateString(markup);
  return report.results.flatMap(({ messages }) =>
    messages.map(({ ruleId, message, line, selector }) => `${ruleId}: ${message} (line ${line}, ${selector})`),
  );
}
