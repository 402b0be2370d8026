// What a client does with Anthropic's SDK, told as JSON: BASE_URL KEY REFUSED_KEY.
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, apiKey, refusedKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const message = { model: "claude-test-1", max_tokens: 64 };
const hello = { ...message, messages: [{ role: "user", content: "Hello" }] };
const tools = [{ name: "weather", description: "The weather", input_schema: { type: "object" } }];

async function failure(asked) {
  try {
    await asked;
  } catch (error) {
    return {
      kind: error.constructor.name,
      status: error.status ?? null,
      message: error.error?.error?.message ?? null,
      requestId: error.requestID ?? null,
    };
  }
  return null;
}

const created = await client.messages.create(hello);
const stream = client.messages.stream(hello);
let streamed = "";
stream.on("text", (piece) => (streamed += piece));
const final = await stream.finalMessage();
const call = await client.messages.stream({ ...hello, tools }).finalMessage();
const refused = new Anthropic({ baseURL, apiKey: refusedKey });

console.log(
  JSON.stringify({
    created: created.content[0].text,
    streamed,
    usage: [final.usage.input_tokens, final.usage.output_tokens],
    call: call.content[0].input,
    models: (await client.models.list()).data.map((model) => model.id),
    unknown: await failure(client.messages.create({ ...hello, model: "none" })),
    cut: await failure(client.messages.stream({ ...hello, model: "claude-cut" }).finalMessage()),
    wrongKey: await failure(
      new Anthropic({ baseURL, apiKey: "sk-ant-ol-wrong" }).messages.create(hello),
    ),
    usedUp: await failure(refused.messages.create(hello)),
  }),
);
