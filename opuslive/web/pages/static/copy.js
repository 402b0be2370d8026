// Shows the buttons that copy what has the id in their data-copy. Without this script that text is
// there to be selected.
"use strict";

for (const button of document.querySelectorAll("button[data-copy]")) {
  // Browsers offer the clipboard to pages that came over TLS or from this machine only.
  if (navigator.clipboard) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
}

async function copy(button) {
  const told = button.parentElement.querySelector("[role=status]");
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    told.textContent = "Copied.";
  } catch {
    told.textContent = "The browser did not allow that; select the text and copy it.";
  }
}
