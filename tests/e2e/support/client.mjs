// One question to the official client for Node: JSON on standard input, JSON on standard output.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const question = JSON.parse(readFileSync(0, "utf8"));
const OpenAI = createRequire(question.modules + "/")("openai").OpenAI;
const client = new OpenAI(question.options);

async function stream(body) {
  const create = question.chat ? client.chat.completions : client.completions;
  const answer = await create.create({ ...body, stream: true });
  const found = [];
  for await (const chunk of answer) {
    found.push(chunk);
    if (question.stopAfter && found.length >= question.stopAfter) {
      answer.controller.abort();
      break;
    }
  }
  return found;
}

const calls = {
  complete: (body) => client.completions.create(body),
  chat: (body) => client.chat.completions.create(body),
  stream,
  embed: async (body) => (await client.embeddings.create(body)).data.map((each) => Array.from(each.embedding)),
  models: async () => {
    const found = [];
    for await (const model of client.models.list()) found.push(model.id);
    return found;
  },
  model: async (name) => (await client.models.retrieve(name)).id,
  requestId: async (body) => (await client.completions.create(body))._request_id,
};

try {
  console.log(JSON.stringify({ result: await calls[question.what](question.body) }));
} catch (error) {
  const { status = null, code = null, message, requestID = null } = error;
  console.log(JSON.stringify({ failure: { name: error.constructor.name, status, code, message, request_id: requestID } }));
}
