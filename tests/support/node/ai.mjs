// What a client does with the AI SDK, told as JSON: ANTHROPIC|OPENAI BASE_URL KEY REFUSED_KEY.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const [dialect, baseURL, apiKey, refusedKey] = process.argv.slice(2);
const [make, name] =
  dialect === "anthropic" ? [createAnthropic, "claude-test-1"] : [createOpenAI, "gpt-5-mini"];
const model = make({ baseURL, apiKey })(name);
const prompt = "Hello";

async function failure(model) {
  try {
    // By itself it would repeat every 429, whatever that says of repeating.
    await generateText({ model, prompt, maxRetries: 0 });
  } catch (error) {
    if (!APICallError.isInstance(error)) throw error;
    return { status: error.statusCode, message: error.message };
  }
  return null;
}

const streamed = streamText({ model, prompt, onError: ({ error }) => { throw error; } });
let text = "";
for await (const piece of streamed.textStream) text += piece;
const usage = await streamed.usage;

const weather = tool({
  description: "The weather",
  inputSchema: z.object({ place: z.string() }),
  execute: async ({ place }) => `Rain in ${place}`,
});
const called = await generateText({
  model, prompt, tools: { weather }, stopWhen: stepCountIs(2),
});

console.log(
  JSON.stringify({
    text,
    usage: [usage.inputTokens, usage.outputTokens],
    calls: called.steps.flatMap((step) => step.toolCalls).map((call) => call.input),
    after: called.text,
    unknown: await failure(make({ baseURL, apiKey })("none")),
    wrongKey: await failure(make({ baseURL, apiKey: "sk-ant-ol-wrong" })(name)),
    usedUp: await failure(make({ baseURL, apiKey: refusedKey })(name)),
  }),
);
