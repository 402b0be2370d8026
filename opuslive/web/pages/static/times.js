// Adds to each time in UTC what the clock shows then where the reader is, as far as the browser
// knows: in the title of a time that has one, beside it elsewhere. Nothing is sent or kept.
"use strict";

const MONTH = new Intl.DateTimeFormat("en-US", { month: "short" });
const ZONE = new Intl.DateTimeFormat().resolvedOptions().timeZone;

tell();
// What another script puts on the page later has its times told as well.
new MutationObserver(tell).observe(document.querySelector("main"), {
  childList: true,
  subtree: true,
});

function tell() {
  for (const time of document.querySelectorAll("time[datetime*=T]:not([data-told])")) {
    time.dataset.told = "";
    const moment = new Date(time.dateTime);
    // Where the clock shows UTC, all is said.
    if (Number.isNaN(moment.getTime()) || moment.getTimezoneOffset() === 0) continue;
    const here = `${local(moment)}\u00a0here`;
    if (time.title) {
      time.title += ` · ${here}`;
    } else {
      const beside = document.createElement("span");
      beside.className = "here";
      beside.textContent = here;
      time.append("\u00a0", beside);
    }
    document.querySelector("[data-zone]").textContent = `, those that end in “here” in ${ZONE}`;
  }
}

// "16:04", and the day where it is another one than in UTC.
function local(moment) {
  const clock = [moment.getHours(), moment.getMinutes()]
    .map((number) => String(number).padStart(2, "0"))
    .join(":");
  const day = moment.getDate();
  return day === moment.getUTCDate() ? clock : `${day}\u00a0${MONTH.format(moment)}, ${clock}`;
}
