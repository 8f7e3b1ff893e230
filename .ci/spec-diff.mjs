// What the document of the API breaks against that of the last release:
//
//   node .ci/spec-diff.mjs openapi/released.json openapi/openapi.json openapi/accepted-breaks.json
//
// Fails at each break that is not accepted, and at what is accepted and is none.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { argv, exit } from "node:process";
import { fileURLToPath } from "node:url";

const { apiCompare } = createRequire(new URL("tools/", import.meta.url))("api-smart-diff");

/** The breaks, by the places where they are. */
export function breaks(before, after) {
  const found = new Map();
  // In a comparison all references are followed, and new values are compared with what is written into them.
  const { diffs } = apiCompare(structuredClone(before), structuredClone(after));
  for (const { type, action, path, description, before: was, after: is } of diffs) {
    if (type !== "breaking" || !["paths", "components"].includes(path[0])) continue;
    // Whether an addition breaks depends on who reads it. A path knows that, a component does not.
    if (path[0] === "components" && action === "add") continue;
    const place = placeOf(action === "add" ? after : before, path);
    if (!found.has(place)) found.set(place, { action, description: description ?? "", was, is });
  }
  return found;
}

/** Where in the document something is said: once, however many places refer to it. */
function placeOf(document, path) {
  let place = [];
  let node = document;
  for (let i = 0; i < path.length; i += 1) {
    while (typeof node?.$ref === "string") {
      // Beside a description, a reference is compared as the only part of an `allOf`.
      if (Object.keys(node).length > 1 && path[i] === "allOf" && Number(path[i + 1]) === 0) i += 2;
      place = node.$ref.slice(2).split("/");
      node = place.reduce((at, name) => at[name], document);
    }
    if (i >= path.length) break;
    const value = node?.[path[i]];
    // A place in a list moves; its name, or what stands there, does not.
    const name = Array.isArray(node) ? (typeof value === "object" ? (value?.$ref ?? value?.name) : value) : undefined;
    place.push(String(name ?? path[i]));
    node = value;
  }
  return `/${place.map((name) => name.replaceAll("~", "~0").replaceAll("/", "~1")).join("/")}`;
}

/** What is to be said: nothing, if every break is accepted. */
export function complaints(before, after, accepted) {
  const found = breaks(before, after);
  const unfounded = accepted.filter(({ place }) => !found.has(place)).map(({ place }) => `${place}: is accepted, and is no break`);
  const unreasoned = accepted.filter(({ reason }) => !reason?.trim()).map(({ place }) => `${place}: is accepted without a reason`);
  for (const { place } of accepted) found.delete(place);
  const broken = [...found].map(([place, { action, was, is, description }]) => {
    const values = [was, is].map((value) => (typeof value === "object" ? "…" : JSON.stringify(value)));
    return `${place}: ${action} ${values.filter(Boolean).join(" → ")} ${description}`.trimEnd();
  });
  return [...broken, ...unfounded, ...unreasoned];
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  const [before, after, accepted] = argv.slice(2).map((path) => JSON.parse(readFileSync(path, "utf8")));
  const found = complaints(before, after, accepted);
  for (const complaint of found) console.error(complaint);
  if (found.length > 0) {
    console.error(`\n${argv[3]} breaks programs that were written against ${argv[2]}. Where that is meant, say in`);
    console.error(`${argv[4]} for each place why: {"place": "…", "reason": "…"}.`);
    exit(1);
  }
  console.log(`spec-diff: no break since the last release, ${accepted.length} accepted`);
}
