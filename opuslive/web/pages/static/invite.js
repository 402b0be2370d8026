// Puts the code of the link into the form, and takes it out of the address: a browser would remember
// it there, and show it to whoever looks. Without this script the link is pasted.
"use strict";

addEventListener("hashchange", take);
take();

function take() {
  const code = location.hash.slice(1);
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  document.getElementById("code").value = code;
  document.getElementById("code-hint").hidden = true;
  document.getElementById("taken").hidden = false;
}
