// What the administration's pages do beyond forms and links: say while somebody types what a
// limit means, and send a form once however often its button is pressed. Without this script
// nothing is missing that is needed.
"use strict";

const PAUSE_MS = 250;

for (const field of document.querySelectorAll("textarea[data-limits]")) {
  watch(field);
}

for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", () => enable(form, false));
  // Whoever goes back to this page finds it as it was left.
  addEventListener("pageshow", () => enable(form, true));
}

function enable(form, enabled) {
  for (const button of form.querySelectorAll("button[type=submit]")) {
    button.disabled = !enabled;
  }
}

function watch(field) {
  const meaning = document.getElementById(`${field.id}-meaning`);
  let timer = 0;
  let asked = 0;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    asked += 1;
    // The server looks at what is sent in any case: a judgement of other text must not stop it.
    field.setCustomValidity("");
    timer = setTimeout(check, PAUSE_MS);
  });

  async function check() {
    const mine = asked;
    let lines;
    try {
      const body = new URLSearchParams({ limits: field.value });
      const answer = await fetch(field.dataset.limits, { method: "POST", body });
      if (!answer.ok) return;
      lines = (await answer.json()).lines;
    } catch {
      return;
    }
    // An answer that was overtaken says nothing about what stands there now.
    if (mine !== asked) return;
    meaning.replaceChildren(...lines.map(item));
    const wrong = lines.find((line) => line.error);
    field.setCustomValidity(wrong ? `Line ${wrong.line}: ${wrong.error}` : "");
    field.setAttribute("aria-invalid", String(Boolean(wrong)));
    // What the server found wrong with what was sent is said line by line now.
    document.getElementById(`${field.id}-error`)?.remove();
    field.setAttribute("aria-describedby", `${field.id}-hint ${meaning.id}`);
  }
}

function item(line) {
  const entry = document.createElement("li");
  const text = document.createElement("code");
  const says = document.createElement("span");
  text.textContent = line.text;
  says.textContent = line.error ?? line.meaning;
  if (line.error) entry.className = "wrong";
  entry.append(text, " ", says);
  return entry;
}
