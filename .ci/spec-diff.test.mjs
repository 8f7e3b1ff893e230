// The gate closes where it must, and nowhere else. Each change is made in a copy of the released document.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { breaks, complaints } from "./spec-diff.mjs";

const released = JSON.parse(readFileSync(new URL("../openapi/released.json", import.meta.url), "utf8"));
const consent = "/v1/customers/{customer_id}/consent";
const place = "/paths/~1v1~1customers~1{customer_id}~1consent";

function changed(change) {
  const document = structuredClone(released);
  change(document.paths, document.components.schemas);
  return document;
}
const found = (change) => [...breaks(released, changed(change)).keys()];

const breaking = {
  "an operation is gone": [(paths) => delete paths[consent].delete, `${place}/delete`],
  "a status is gone": [(paths) => delete paths[consent].put.responses["201"], `${place}/put/responses/201`],
  "a parameter must be given": [
    (paths) => paths[consent].get.parameters.push({ name: "why", in: "query", required: true, schema: { type: "string" } }),
    `${place}/get/parameters/why`,
  ],
  "a field must be given": [(_, schemas) => schemas.ConsentDecision.required.push("reason"), "/components/schemas/ConsentDecision/required/reason"],
  "a field is not answered any more": [(_, schemas) => delete schemas.ConsentRecord.properties.version, "/components/schemas/ConsentRecord/properties/version"],
  "a field has another type": [(_, schemas) => (schemas.ConsentRecord.properties.version.type = "string"), "/components/schemas/ConsentRecord/properties/version/type"],
  "a value is not taken any more": [(_, schemas) => schemas.ConsentTier.enum.pop(), "/components/schemas/ConsentTier/enum/research"],
  "a value is answered that nobody knows": [(_, schemas) => schemas.AuditAction.enum.push("moved"), "/components/schemas/AuditAction/enum/moved"],
};
for (const [name, [change, where]] of Object.entries(breaking)) {
  test(name, () => assert(found(change).includes(where), `${where} is not among ${JSON.stringify(found(change))}`));
}

test("what is added breaks nothing", () => {
  const more = (paths, schemas) => {
    paths["/v1/more"] = { get: structuredClone(paths["/v1/audit"].get) };
    paths[consent].get.parameters.push({ name: "why", in: "query", required: false, schema: { type: "string" } });
    schemas.More = { type: "object" };
    schemas.ConsentDecision.properties.more = { type: "string" };
    schemas.ConsentRecord.properties.more = { type: "string" };
    schemas.ConsentRecord.required.push("more");
  };
  assert.deepEqual(found(more), []);
});

test("a break is accepted with its reason, and only while it is one", () => {
  const document = changed((paths) => delete paths[consent].delete);
  const accepted = [{ place: `${place}/delete`, reason: "nobody called it" }];
  assert.equal(complaints(released, document, []).length, 1);
  assert.deepEqual(complaints(released, document, accepted), []);
  assert.equal(complaints(released, released, accepted).length, 1);
  assert.equal(complaints(released, document, [{ place: `${place}/delete` }]).length, 1);
});
