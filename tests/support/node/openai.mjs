// What a client does with OpenAI's SDK, told as JSON: BASE_URL KEY REFUSED_KEY.
import OpenAI from "openai";

const [baseURL, apiKey, refusedKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const hello = { model: "gpt-5-mini", messages: [{ role: "user", content: "Hello" }] };
const tools = [{ type: "function", function: { name: "weather", parameters: {} } }];

async function failure(asked) {
  try {
    await asked();
  } catch (error) {
    return {
      kind: error.constructor.name,
      status: error.status ?? null,
      code: error.code ?? null,
      requestId: error.requestID ?? null,
    };
  }
  return null;
}

async function deltas(asked) {
  const seen = [];
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    seen.push(chunk);
  }
  return seen;
}

const created = await client.chat.completions.create(hello);
const streamed = await deltas(hello);
const call = await deltas({ ...hello, tools });
const response = await client.responses.create({ model: hello.model, input: "Hello" });
const events = [];
const asked = { model: hello.model, input: "Hello", stream: true };
for await (const event of await client.responses.create(asked)) events.push(event.type);
const refused = new OpenAI({ baseURL, apiKey: refusedKey });
const wrong = new OpenAI({ baseURL, apiKey: "sk-ant-ol-wrong" });

console.log(
  JSON.stringify({
    created: created.choices[0].message.content,
    streamed: streamed.map((chunk) => chunk.choices[0].delta.content).join(""),
    usages: streamed.filter((chunk) => "usage" in chunk).length,
    call: call.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? [])
      .map((piece) => piece.function.arguments).join(""),
    response: response.output_text,
    events,
    models: (await client.models.list()).data.map((model) => model.id),
    unknown: await failure(() => client.chat.completions.create({ ...hello, model: "none" })),
    cut: await failure(() => deltas({ ...hello, model: "gpt-cut" })),
    wrongKey: await failure(() => wrong.chat.completions.create(hello)),
    usedUp: await failure(() => refused.chat.completions.create(hello)),
  }),
);
