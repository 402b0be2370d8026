// Keeps the overview fresh: what goes on right now every few seconds, all of it once a minute. Parts
// that changed are changed in place, so that the focus, opened details, what is selected and how far
// something is scrolled stay. Nothing is asked for while nobody looks. Without this script the page
// has a link that loads it anew.
"use strict";

const NOW_MS = 5_000;
const WHOLE_MS = 60_000;
// A server that restarts, or wants the password again, is asked ever more seldom.
const LONGEST_MS = 60_000;
const PATIENCE_MS = 15_000;

const control = document.getElementById("live");
const button = control.querySelector("button");
const hint = control.querySelector("[data-hint]");
const told = control.querySelector("[role=status]");

let paused = false;
let asking = false;
let failures = 0;
let timer = 0;
let wholeAt = performance.now();

button.hidden = false;
hint.hidden = false;
button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Go on" : "Pause";
  hint.textContent = paused ? "Paused." : hint.dataset.hint;
  if (!paused) refresh();
});
document.addEventListener("visibilitychange", refresh);
hint.textContent = hint.dataset.hint;
later(NOW_MS);

function later(ms) {
  clearTimeout(timer);
  timer = setTimeout(refresh, ms);
}

async function refresh() {
  if (paused || asking || document.hidden) return;
  clearTimeout(timer);
  asking = true;
  const whole = performance.now() - wholeAt >= WHOLE_MS;
  let pause = NOW_MS;
  try {
    await load(whole ? location.pathname + location.search : control.dataset.live);
    if (whole) wholeAt = performance.now();
    tell(failures ? "The server answers again." : "");
    failures = 0;
  } catch (error) {
    failures += 1;
    pause = error.status === 401 ? LONGEST_MS : Math.min(LONGEST_MS, NOW_MS * 2 ** failures);
    tell(
      error.status === 401
        ? "The server wants the password again: reload this page to sign in."
        : "The server does not answer; what you see is as old as it says. It is asked again.",
    );
  }
  asking = false;
  later(pause);
}

// Says it to who sees the page and to who hears it, each thing once.
function tell(text) {
  if (told.textContent !== text) told.textContent = text;
}

async function load(address) {
  const answer = await fetch(address, {
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (!answer.ok) throw Object.assign(new Error(answer.statusText), { status: answer.status });
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const parts = fresh.querySelectorAll("[data-live-part]");
  // Something between here and the server answered in its place.
  if (!parts.length) throw new Error("no such page");
  // What somebody paused meanwhile stays as it was then.
  if (paused) return;
  for (const part of parts) {
    const here = document.getElementById(part.id);
    if (here) renew(here, part);
  }
}

// Makes an element like another one, of the same kind, and changes only what differs.
function renew(here, fresh) {
  // What somebody fills in, or chose, is theirs.
  if (here.localName === "form" || here.isEqualNode(fresh)) return;
  // A time may have got more beside it in the browser: it stays as it is, or another takes its place.
  if (here.localName === "time") {
    const same = here.dateTime === fresh.dateTime && here.firstChild?.data === fresh.firstChild?.data;
    if (!same) here.replaceWith(document.importNode(fresh, true));
    return;
  }
  for (const { name } of [...here.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") here.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (here.getAttribute(name) !== value) here.setAttribute(name, value);
  }
  const named = new Map();
  for (const child of here.children) {
    if (child.dataset.key) named.set(child.dataset.key, child);
  }
  let next = here.firstChild;
  for (const child of [...fresh.childNodes]) {
    const same = named.get(child.dataset?.key) ?? (alike(next, child) ? next : null);
    if (!same) {
      here.insertBefore(document.importNode(child, true), next);
      continue;
    }
    if (same === next) next = next.nextSibling;
    else here.insertBefore(same, next);
    if (same.nodeType === Node.ELEMENT_NODE) renew(same, child);
    else if (same.data !== child.data) same.data = child.data;
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

// Whether one node may become the other: two elements that have names are two things.
function alike(here, fresh) {
  return here?.nodeName === fresh.nodeName && !here.dataset?.key && !fresh.dataset?.key;
}
