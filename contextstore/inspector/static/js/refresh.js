// Parts of a page of which nobody is told when they change are asked for anew, while somebody looks at them.
// An element with data-refresh="<fragment>" holds that fragment; data-seen, which is what it holds, is sent along.
const LEAST = 5000;
const SHARE = 20; // what takes the server long is asked for less often: it is busy with it a twentieth of the time

const parts = [...document.querySelectorAll("[data-refresh]")];
let timer = 0;
let asked = 0;
let pause = LEAST;

function address(part) {
  const url = new URL(location.href);
  url.hash = "";
  url.searchParams.set("fragment", part.dataset.refresh);
  if (part.dataset.seen) url.searchParams.set("seen", part.dataset.seen);
  return url;
}

// What an element says, whatever its ages are counted to by now.
function saying(element) {
  const copy = element.cloneNode(true);
  for (const time of copy.querySelectorAll("time")) time.textContent = "";
  return copy.innerHTML.trim();
}

function frame(element) {
  const copy = element.cloneNode(true);
  for (const body of copy.querySelectorAll("tbody")) body.textContent = "";
  return saying(copy);
}

// Rows that are the same stay the elements that they are: with the focus, and where they were on the screen.
function swapRows(body, next) {
  const there = new Map([...body.rows].map((row) => [row.id, row]));
  const wanted = [...next.rows].map((row) => {
    const old = there.get(row.id);
    return old && saying(old) === saying(row) ? old : row;
  });
  const stay = new Set(wanted);
  for (const row of [...body.rows]) if (!stay.has(row)) row.remove();
  wanted.forEach((row, index) => {
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
  });
}

function swap(part, html) {
  const next = document.createElement("div");
  next.innerHTML = html; // rendered, and escaped, by our own server
  if (saying(part) === saying(next)) return;
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const row = focused?.closest("tr")?.id;
  const href = focused?.getAttribute("href");
  const body = part.querySelector("tbody");
  const nextBody = next.querySelector("tbody");
  if (body && nextBody && frame(part) === frame(next)) swapRows(body, nextBody);
  else part.replaceChildren(...next.childNodes);
  if (focused && !focused.isConnected) {
    const links = [...part.querySelectorAll("a[href], button")];
    const again = (row && document.getElementById(row)?.querySelector("a[href]")) || links.find((link) => link.getAttribute("href") === href);
    again?.focus({ preventScroll: true });
  }
  document.dispatchEvent(new Event("contextstore:swapped"));
}

function isSelecting(part) {
  const selection = document.getSelection();
  return selection !== null && !selection.isCollapsed && part.contains(selection.anchorNode);
}

function tell(state, words) {
  const live = document.getElementById("live");
  live.dataset.state = state;
  live.querySelector(".live-word").textContent = words;
}

function tellPause() {
  tell("on", `every ${Math.round(pause / 1000)} s`);
}

async function refresh() {
  asked = Date.now();
  try {
    for (const part of parts) {
      const answer = await fetch(address(part), { headers: { accept: "text/html" } });
      if (!answer.ok) throw new Error(`the server said ${answer.status}`);
      const html = await answer.text();
      if (!isSelecting(part)) swap(part, html);
    }
    pause = Math.max(LEAST, SHARE * (Date.now() - asked));
    tellPause();
  } catch {
    tell("lost", "no answer");
  }
}

function wait() {
  clearTimeout(timer);
  if (document.hidden || parts.length === 0) return;
  timer = setTimeout(() => refresh().finally(wait), Math.max(asked + pause - Date.now(), 0));
}

asked = Date.now();
document.addEventListener("visibilitychange", wait);
if (parts.length > 0) tellPause();
wait();
