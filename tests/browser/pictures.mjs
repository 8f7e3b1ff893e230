// The pictures of the README, in light and dark: written into the directory that PICTURES names.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";
import { api, customer, link, until } from "./service.mjs";

const MOST = 150_000;

/** A customer who decided some ten times, as of a day on which something else held than does now. */
async function changeable() {
  const { items } = (await api("/v1/audit?limit=1000")).json();
  for (const customer_id of new Set(items.filter(({ action }) => action === "updated").map((entry) => entry.customer_id))) {
    const entries = (await api(`/v1/customers/${customer_id}/consent/audit?limit=50`)).json().items;
    const tiers = new Set(entries.map((entry) => entry.new_tier));
    if (entries.length < 8 || entries.length > 12 || tiers.size < 3) continue;
    const between = entries[Math.floor(entries.length / 2)].timestamp;
    return `/console/customers/${customer_id}?as_of=${between.slice(0, 10)}`;
  }
  assert.fail("no customer of the demo decided some ten times");
}

const ours = await customer(
  { consent_tier: "analytics", can_store_embeddings: true, expires_at: new Date(Date.now() + 180 * 86_400_000).toISOString() },
  "Bronze Otter Robotics",
);

const PICTURES = {
  overview: { at: "/console", height: 1250 },
  trail: { at: "/console/audit?action=withdrawn" },
  customer: { at: await changeable(), height: 950 },
  "my-consent": { at: "/my/consent", by: await link(ours), width: 900 },
};

await until("the log was verified", async () => {
  const status = await api("/v1/audit/log/status");
  return status.json().last_verification?.result === "clean";
}, 60);

for (const [name, { at, by, width = 1240, height = 800 }] of Object.entries(PICTURES)) {
  for (const scheme of ["light", "dark"]) {
    test(`${name} in ${scheme}`, async (t) => {
      const page = await open(t, { scheme, width, height });
      if (by) {
        await page.goto(by);
        await page.goto(at);
      } else {
        await signIn(page, { at });
      }
      const picture = await page.screenshot({ animations: "disabled", caret: "hide" });
      assert.ok(picture.length <= MOST, `${name} in ${scheme} takes ${picture.length} bytes`);
      await writeFile(`${process.env.PICTURES}/${name}-${scheme}.png`, picture);
    });
  }
}
