// What every page does: keys, theme, the list of keys, times that go on.
import { listenToKeys } from "./keys.js";
import { followLive } from "./live.js";
import { keepTimesCurrent } from "./times.js";

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function turnTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("contextstore-theme", theme);
  } catch {
    // It holds for this page, then.
  }
}

async function copy(button) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(JSON.parse(button.dataset.text));
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser forbids it";
  }
  setTimeout(() => (button.textContent = words), 1500);
}

const actions = {
  theme: turnTheme,
  help: () => document.getElementById("help").showModal(),
  open: (button) => document.getElementById(button.dataset.dialog).showModal(),
  close: (button) => button.closest("dialog").close(),
  copy,
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button && button.dataset.do in actions) actions[button.dataset.do](button);
});

listenToKeys(actions);
keepTimesCurrent();
followLive();
