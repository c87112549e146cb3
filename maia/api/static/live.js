// Keeps pages fresh: tells htmx when something happened, or else every so often while the page is looked at.
// The server renders what is new; nothing here writes markup.
"use strict";

(() => {
  // An agent's figures are kept for two seconds by the server.
  const AFTER_EVENT_MS = { breakout: 400, incident: 400, cycle: 2500 };
  const TICK_MS = 5000;
  const POLL_MS = 30000;
  const POLL_WITH_EVENTS_MS = 120000;

  const TOLD = { breakout: "a breakout", cycle: "an agent ran", incident: "an incident changed" };

  const body = document.body;
  body.classList.add("scripted");
  const status = document.getElementById("live");
  const listensTo = (event) => document.querySelector(`[hx-trigger*='pleiades:${event}']`) !== null;

  // What changes all the time, such as a log, unless somebody reads or marks a part of it.
  if (listensTo("tick")) {
    setInterval(() => {
      const isRead = document.querySelector("#log details[open]") || !getSelection().isCollapsed;
      if (!document.hidden && !isRead) body.dispatchEvent(new CustomEvent("pleiades:tick"));
    }, TICK_MS);
  }
  if (!listensTo("refresh")) return;

  let waiting = null;
  let isStale = false;
  let connected = false;
  let refreshedAt = Date.now();

  function say(text, on) {
    if (!status || status.textContent === text) return;
    status.textContent = text;
    status.classList.toggle("on", on);
  }

  function refresh() {
    waiting = null;
    if (document.hidden) {
      isStale = true;
      return;
    }
    isStale = false;
    refreshedAt = Date.now();
    body.dispatchEvent(new CustomEvent("pleiades:refresh"));
  }

  function soon() {
    if (waiting === null) waiting = setTimeout(refresh, AFTER_EVENT_MS[status.dataset.kind]);
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && isStale) refresh();
  });
  setInterval(() => {
    const pause = connected ? POLL_WITH_EVENTS_MS : POLL_MS;
    if (Date.now() - refreshedAt >= pause) refresh();
  }, 5000);

  const address = status && status.dataset.events;
  if (!address) {
    say("Refreshed every 30 seconds", false);
    return;
  }
  const source = new EventSource(address);
  source.onopen = () => {
    connected = true;
    say("Live", true);
  };
  source.onerror = () => {
    connected = false;
    say("Refreshed every 30 seconds", false);
  };
  source.addEventListener(status.dataset.kind, () => {
    say(`Live: ${TOLD[status.dataset.kind]} just now`, true);
    soon();
  });
  addEventListener("pagehide", () => source.close());
})();
