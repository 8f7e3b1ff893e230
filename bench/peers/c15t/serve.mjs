// c15t's backend in Node's HTTP server, on PostgreSQL by its kysely adapter: node serve.mjs PORT SOCKET-DIRECTORY DATABASE USER
import { createServer } from "node:http";
import { c15tInstance } from "@c15t/backend";
import { kyselyAdapter } from "@c15t/backend/db/adapters/kysely";
import { migrator } from "@c15t/backend/db/migrator";
import { DB } from "@c15t/backend/db/schema";
import { Kysely, PostgresDialect } from "kysely";
import pg from "pg";

const [port, host, database, user] = process.argv.slice(2);
const pool = new pg.Pool({ host, database, user, max: 32 });
const adapter = kyselyAdapter({ db: new Kysely({ dialect: new PostgresDialect({ pool }) }), provider: "postgresql" });
const migration = await migrator({ db: DB.client(adapter), schema: "latest" });
await migration.execute();

const c15t = c15tInstance({
  appName: "bench",
  basePath: "/",
  trustedOrigins: ["localhost"],
  adapter,
  logger: { level: "error" },
  advanced: { disableGeoLocation: true, openapi: { enabled: false } },
});

async function handle(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = chunks.length > 0 ? Buffer.concat(chunks) : undefined;
  const { method, headers, url } = request;
  const answer = await c15t.handler(new Request(`http://localhost:${port}${url}`, { method, headers, body }));
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  response.end(Buffer.from(await answer.arrayBuffer()));
}

createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(error);
    response.writeHead(500).end();
  });
}).listen(Number(port), "127.0.0.1");
