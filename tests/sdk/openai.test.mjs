// The official OpenAI SDK for Node at a running gateway. Driven by tests/e2e/test_node_sdk.py, which sets the
// environment and picks one case by name.
import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

const { GATEWAY_URL, GATEWAY_KEY, GATEWAY_MODEL, OTHER_TENANTS_MODEL, ENGINE_KIND } = process.env;
// Without retries, so that a failure is seen as it is.
const client = new OpenAI({ baseURL: GATEWAY_URL, apiKey: GATEWAY_KEY, maxRetries: 0 });
const model = GATEWAY_MODEL;
const messages = [{ role: "user", content: "Say something." }];

test("chat", async () => {
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 8 });
  assert.equal(answer.model, model);
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.usage.completion_tokens, 8);
});

test("stream", async () => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 8, ...options })) {
    assert.equal(chunk.model, model);
    chunks.push(chunk);
  }
  assert.ok(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""));
  assert.equal(chunks.at(-1).usage.completion_tokens, 8);
});

test("tool call body", async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const call = { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Oslo"}' } };
  const answer = await client.chat.completions.create({
    model,
    max_tokens: 8,
    tools: [{ type: "function", function: { name: "weather", parameters } }],
    tool_choice: "none", // the tiny model cannot choose tools itself
    messages: [
      ...messages,
      { role: "assistant", content: "", tool_calls: [call] },
      { role: "tool", tool_call_id: "call_1", content: "4 degrees, rain" },
    ],
  });
  assert.equal(answer.choices[0].finish_reason, "length");
});

test("embedding", async () => {
  const request = () => client.embeddings.create({ model, input: ["a text", "another"] });
  if (ENGINE_KIND === "vllm") {
    // A model that generates has no embeddings: vLLM does not know the route, and that answer comes through.
    await assert.rejects(request, OpenAI.NotFoundError);
    return;
  }
  const answer = await request();
  assert.equal(answer.data.length, 2);
  assert.ok(answer.data.every((item) => item.embedding.length > 0));
});

test("error", async () => {
  const unknown = client.chat.completions.create({ model: OTHER_TENANTS_MODEL, messages });
  await assert.rejects(unknown, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  const wrong = client.chat.completions.create({ model, messages, temperature: -1 });
  await assert.rejects(wrong, OpenAI.BadRequestError);
  const stranger = client.withOptions({ apiKey: "pl-unknown" }).chat.completions.create({ model, messages });
  await assert.rejects(stranger, (error) => error.status === 401 && error.code === "invalid_api_key");
});
