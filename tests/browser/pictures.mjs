// The pictures of the README, in light and dark: written into the directory that PICTURES names.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { test } from "node:test";
import { open, signIn } from "./house.mjs";
import { api, until } from "./service.mjs";

const MOST = 150_000;

const PICTURES = {
  overview: { at: "/console" },
  trail: { at: "/console/audit" },
};

await until("the log was verified", async () => {
  const status = await api("/v1/audit/log/status");
  return status.json().last_verification?.result === "clean";
}, 60);

for (const [name, { at, then, height = 800 }] of Object.entries(PICTURES)) {
  for (const scheme of ["light", "dark"]) {
    test(`${name} in ${scheme}`, async (t) => {
      const page = await open(t, { scheme, height });
      await signIn(page, { at });
      await then?.(page);
      const picture = await page.screenshot({ animations: "disabled", caret: "hide" });
      assert.ok(picture.length <= MOST, `${name} in ${scheme} takes ${picture.length} bytes`);
      await writeFile(`${process.env.PICTURES}/${name}-${scheme}.png`, picture);
    });
  }
}
