// Copies what a button names, such as a new key, and sends a form once however often its button is
// pressed. Without this script nothing is missing that is needed.
"use strict";

for (const button of document.querySelectorAll("button[data-copy]")) {
  // Browsers offer the clipboard to pages that came over TLS or from this machine only.
  if (navigator.clipboard) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
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

async function copy(button) {
  const told = button.parentElement.querySelector("[role=status]");
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    told.textContent = "Copied.";
  } catch {
    told.textContent = "The browser did not allow that; select the key and copy it.";
  }
}
