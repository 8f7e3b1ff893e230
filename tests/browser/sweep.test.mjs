// Every page there is, found by following the links from the beginning: in light and dark, and in three widths.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { barriers, misuses, open, signIn } from "./house.mjs";
import { ADDRESS, CANARY, CANARY_CUSTOMER, api, customer, link } from "./service.mjs";

const WIDTHS = [320, 1024, 1600];
/** So many addresses are asked for at most while links are followed. */
const BOUND = 150;

/** What kind of page an address leads to: its path, without what is particular. */
const kind = (address) =>
  address.pathname.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "{id}").replace(/\/\d+(?=\/|$)/g, "/{number}");

const isPage = ({ origin, pathname }) =>
  origin === ADDRESS && /^\/(console|my)(\/|$)/.test(pathname) && !/\.(csv|ndjson|zip)$/.test(pathname);
/** Another language is looked at by itself. */
const isOtherLanguage = ({ searchParams }) => searchParams.has("lang");

const unescaped = (text) => text.replaceAll("&amp;", "&").replaceAll("&#38;", "&");

/** Follows the links of every kind of page once or twice: a page of each kind with what was served, and links to nowhere. */
async function crawl(request, beginnings) {
  const pages = new Map();
  const broken = [];
  const counts = new Map();
  const asked = new Set();
  const queue = beginnings.map((path) => ({ address: new URL(path, ADDRESS), from: "the beginning" }));
  while (queue.length > 0) {
    const { address, from } = queue.shift();
    const found = kind(address);
    if (asked.has(address.href) || counts.get(found) >= 2) continue;
    asked.add(address.href);
    counts.set(found, (counts.get(found) ?? 0) + 1);
    assert.ok(asked.size <= BOUND, `more than ${BOUND} pages were found: is there an end?`);
    const answer = await request.get(address.href, { headers: { accept: "text/html" } });
    const path = address.pathname + address.search;
    if (!answer.ok()) broken.push(`${path} answers ${answer.status()}, and ${from} leads there`);
    if (!answer.ok() || !answer.headers()["content-type"]?.startsWith("text/html")) continue;
    const markup = await answer.text();
    if (!pages.has(found)) pages.set(found, { name: found, path, markup });
    for (const [, href] of markup.matchAll(/<a\s[^>]*?href="([^"]*)"/g)) {
      const next = new URL(unescaped(href), address);
      next.hash = "";
      if (isPage(next) && !isOtherLanguage(next)) queue.push({ address: next, from: path });
    }
  }
  return { pages: [...pages.values()], broken };
}

/** Which page has which title. Two that differ do not have the same. */
const titles = new Map();

/** Looks at a page in every way; what is a variant is another view of a page, and may have its title. */
async function look(page, { name, path, markup, status = 200, isVariant = false }, { schemes = ["light", "dark"], widths = WIDTHS } = {}) {
  const wholly = schemes.length > 1;
  page.allowed = [new RegExp(`status of ${status} `)];
  const answer = await page.goto(path);
  assert.equal(answer.status(), status);
  markup ??= await answer.text();
  // What is folded can be unfolded, and then holds to the same.
  await page.locator("details").evaluateAll((all) => all.forEach((details) => { details.open = true; }));
  for (const scheme of schemes) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const width of widths) {
      await page.setViewportSize({ width, height: 800 });
      const seen = await page.evaluate(() => ({
        tooWide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        widest: [...document.querySelectorAll("body *")]
          .filter((part) => part.getBoundingClientRect().right > innerWidth && !part.closest(".scroll, pre, .sr"))
          .map((part) => part.outerHTML.slice(0, 120)),
        headings: document.querySelectorAll("h1").length,
        title: document.title,
        pwned: window.pwned,
        scheme: matchMedia("(prefers-color-scheme: dark)").matches,
      }));
      const where = `${name} in ${scheme}, ${width} px`;
      assert.equal(seen.tooWide, 0, `${where} is wider than the window by ${seen.tooWide} px: ${seen.widest.join("\n")}`);
      assert.equal(seen.headings, 1, `${where} has one h1`);
      assert.equal(seen.pwned, undefined, `${where} ran what was stored`);
      assert.equal(seen.scheme, scheme === "dark");
      // It takes a second: colours are told apart in both schemes, and what a width does in one of them.
      if (!wholly || (scheme === "dark" ? width === 1024 : width !== 1024)) {
        assert.deepEqual(await barriers(page), [], where);
      }
      if (isVariant) continue;
      const same = titles.get(seen.title) ?? name;
      assert.equal(same, name, `two pages have the title ${seen.title}`);
      titles.set(seen.title, name);
    }
  }
  assert.deepEqual(await misuses(markup), [], `${name}: html-validate`);
  assert.deepEqual(page.faults(), [], name);
}

test("every page of the console", async (t) => {
  const page = await open(t);
  await signIn(page);
  const trail = await api(`/v1/audit?customer_id=${CANARY_CUSTOMER}&limit=1`);
  const { audit_id: canary } = trail.json().items[0];
  const { pages, broken } = await crawl(page.request, [
    `/console/audit?customer_id=${CANARY_CUSTOMER}`,
    `/console/audit/${canary}`,
    "/console",
  ]);
  await t.test("no link leads nowhere", () => assert.deepEqual(broken, []));
  for (const found of pages) await t.test(found.name, () => look(page, found));
  const someone = "0badc0de-0000-4000-8000-00000000dead";
  const variants = [
    { name: "a filter that nothing fits", path: "/console/audit?action=erased&until=2020-01-01" },
    { name: "a filter that is refused", path: "/console/audit?action=unheard-of", status: 400 },
    { name: "the trail by hour", path: "/console/audit?since=2026-06-29&until=2026-06-30" },
    { name: "an entry that is not there", path: "/console/audit/999999999", status: 404 },
    { name: "a customer that is not there", path: `/console/customers/${someone}`, status: 404 },
    { name: "a customer as of a day", path: `/console/customers/${CANARY_CUSTOMER}?as_of=2026-06-30` },
    { name: "customers whom nobody finds", path: "/console/customers?search=nobody@example.com" },
  ];
  for (const variant of variants) await t.test(variant.name, () => look(page, { ...variant, isVariant: true }));
  for (const path of [`/console/audit/${canary}`, `/console/customers/${CANARY_CUSTOMER}`]) {
    await t.test(`${path}, with the names that were asked for`, async () => {
      await page.goto(path);
      await page.getByRole("button", { name: "Show names" }).click();
      await page.waitForURL(/reveal=/);
      const { pathname, search } = new URL(page.url());
      await look(page, { name: path, path: pathname + search, isVariant: true });
    });
  }
});

test("every page of a customer", async (t) => {
  const page = await open(t);
  await page.goto(await link(CANARY_CUSTOMER, { on_behalf_of: CANARY }));
  const { pages, broken } = await crawl(page.request, ["/my/consent", "/my/consent/choices"]);
  assert.deepEqual(broken, []);
  for (const found of pages) await t.test(found.name, () => look(page, found));
  // What is longest in other languages is looked at where it has the least room.
  for (const language of ["de", "fr", "es"]) {
    for (const { name, path } of pages) {
      const { pathname } = new URL(path, ADDRESS);
      const variant = { name: `${name} in ${language}`, path: `${pathname}?lang=${language}`, isVariant: true };
      await t.test(variant.name, () => look(page, variant, { schemes: ["light"], widths: [320] }));
    }
  }
});

test("the page of a customer who has decided nothing, or withdrawn", async (t) => {
  const none = await open(t);
  await none.goto(await link(await customer()));
  await t.test("nothing decided", () => look(none, { name: "nothing decided", path: "/my/consent", isVariant: true }));
  const withdrawn = await open(t);
  await withdrawn.goto(await link(await customer({ consent_tier: "basic" })));
  await withdrawn.getByRole("button", { name: "Withdraw everything" }).click();
  await withdrawn.getByRole("status").waitFor();
  await t.test("withdrawn", () => look(withdrawn, { name: "withdrawn", path: "/my/consent", isVariant: true }));
});

test("the pages of somebody who is not known", async (t) => {
  const page = await open(t);
  for (const one of [
    { name: "sign in", path: "/console/sign-in" },
    { name: "no link", path: "/my/consent", status: 403 },
    { name: "a bad link", path: "/my/consent?link=AAAA", status: 403 },
  ]) {
    await t.test(one.name, () => look(page, one));
  }
});
