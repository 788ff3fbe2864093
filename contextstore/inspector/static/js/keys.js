// The keyboard: / search, j k rows, enter opens (a row's link has the focus), b back, t theme, ? help.

function rows() {
  return [...document.querySelectorAll("[data-row]")].filter((row) => row.checkVisibility()); // not within what is folded
}

function linkOf(row) {
  return row.matches("[data-open]") ? row : row.querySelector("[data-open], a[href], button");
}

function move(step) {
  const all = rows();
  if (all.length === 0) return;
  const here = all.findIndex((row) => row.contains(document.activeElement));
  const next = here === -1 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + step, 0), all.length - 1);
  const link = linkOf(all[next]);
  if (link) {
    link.focus({ preventScroll: true });
    all[next].scrollIntoView({ block: "nearest" });
  }
}

// Up, and to where one was: the list with its search, if that is where one has come from.
function back() {
  const link = document.querySelector("[data-back]");
  const isFrom = link && document.referrer.replace(/[?#].*/, "") === link.href.replace(/[?#].*/, "");
  if (link && !isFrom) link.click();
  else history.back();
}

function search() {
  const field = document.querySelector("[data-search]");
  if (!field) return false;
  field.focus();
  field.select();
  return true;
}

export function listenToKeys({ theme, help }) {
  const keys = { j: () => move(1), k: () => move(-1), b: back, t: theme, "?": help };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
    if (isTyping) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "/") {
      if (search()) event.preventDefault();
    } else if (event.key in keys) {
      event.preventDefault();
      keys[event.key]();
    }
  });
}
