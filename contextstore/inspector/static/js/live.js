// Follows what a page shows while somebody looks at it: an element with data-live names the stream of the page, and
// with data-fragment the part of the page that it is itself. A hidden page asks for nothing.
import { elementsOf, swap } from "./swap.js";

const SOONEST = 1000; // milliseconds between two requests
const LATEST = 10000;
const WORDS = { on: "Live", lost: "Connecting again", off: "" };

let source = null;
let place = ""; // the cursor behind what came last
let failures = 0; // to reach the server, one after the other
let refusals = 0; // of the place to go on from
let asked = -SOONEST;
let timer = 0;
let isOver = false;

function part() {
  return document.querySelector("[data-live]");
}

function tell(state, words = WORDS[state]) {
  const live = document.getElementById("live");
  live.dataset.state = state;
  const word = live.querySelector(".live-word");
  if (word.textContent !== words) word.textContent = words;
}

// -- when -------------------------------------------------------------------------------------------------------------

// At most one request a second, and the more seldom, the more have failed one after the other.
function soon(request) {
  clearTimeout(timer);
  if (document.hidden || isOver || !part()) return;
  const tries = Math.max(failures, refusals);
  const pause = tries === 0 ? SOONEST : Math.min(SOONEST * 2 ** (tries - 1), LATEST) * (1 + Math.random() / 4);
  timer = setTimeout(() => {
    asked = performance.now();
    request();
  }, Math.max(asked + pause - performance.now(), 0));
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function fail() {
  close();
  failures += 1;
  tell("lost");
  soon(open);
}

function end(sentence) {
  close();
  isOver = true;
  tell("lost", "No longer live");
  const note = document.createElement("p");
  note.className = "note";
  note.setAttribute("role", "alert");
  note.textContent = sentence;
  document.getElementById("main").prepend(note);
}

// -- what -------------------------------------------------------------------------------------------------------------

function open() {
  close(); // one may be there already, if the page was hidden and shown while it began anew
  const address = new URL(part().dataset.live, location.href);
  if (place) address.searchParams.set("after", place);
  source = new EventSource(address);
  source.addEventListener("open", () => tell("on"));
  source.addEventListener("message", take);
  source.addEventListener("reload", reload);
  source.addEventListener("gone", (event) => end(event.data));
  source.addEventListener("lost", fail);
  source.addEventListener("error", fail);
}

function take(event) {
  failures = refusals = 0;
  if (event.lastEventId) place = event.lastEventId;
  if (!swap(elementsOf(event.data))) reload();
}

// The page has to begin anew: its part is asked for, with a new place to go on from, or else the page as a whole.
function reload() {
  close();
  tell("lost");
  failures = 0; // it is there: a place that it did not know yet is no reason to wait for long
  refusals += 1; // one that is always refused is
  const name = part()?.dataset.fragment;
  const isReloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
  if (!name && isReloaded) refusals = Math.max(refusals, 5); // it did not help: not at once again
  if (!name) soon(() => location.reload());
  else soon(() => refresh(name).catch(fail));
}

async function refresh(name) {
  const address = new URL(location.href);
  address.hash = "";
  address.searchParams.set("fragment", name);
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  if (!answer.ok) throw new Error(`the server said ${answer.status}`);
  swap(elementsOf(await answer.text()));
  place = "";
  soon(open);
}

export function followLive() {
  if (!part()) return;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      if (!isOver) tell("off");
    } else if (!source) {
      soon(open);
    }
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && soon(open));
  soon(open);
}
