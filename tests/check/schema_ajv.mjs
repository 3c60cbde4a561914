// `tollgate schema` must be a JSON Schema that ajv takes in strict mode, and accept every file of conf/examples.
// Usage: node schema_ajv.mjs DIRECTORY-WITH-node_modules SCHEMA.json GOOD.yaml... [--bad BAD.yaml...]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [modules, schemaFile, ...files] = process.argv.slice(2);
const require = createRequire(resolve(modules, "package.json"));
const Ajv = require("ajv");
const YAML = require("yaml");

const schema = JSON.parse(readFileSync(schemaFile, "utf8"));
const validate = new Ajv({ strict: true, allErrors: true }).compile(schema);

let wanted = true;
let failed = 0;
for (const file of files) {
    if (file === "--bad") {
        wanted = false;
        continue;
    }
    const accepted = validate(YAML.parse(readFileSync(file, "utf8")));
    if (accepted === wanted) {
        continue;
    }
    failed++;
    console.error(`${file}: ${wanted ? "refused" : "accepted, but must not be"}`);
    for (const error of validate.errors ?? []) {
        console.error(`  ${error.instancePath || "/"} ${error.message} ${JSON.stringify(error.params)}`);
    }
}
console.log(failed === 0 ? "the schema accepts what it must" : `${failed} files are judged wrongly`);
process.exit(failed === 0 ? 0 : 1);
