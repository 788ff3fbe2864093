// Before anything is painted: the theme that was chosen here, and that there are scripts at all.
const root = document.documentElement;
root.classList.add("has-js");
try {
  const chosen = localStorage.getItem("contextstore-theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
} catch {
  // Storage may be forbidden: then the system's theme is taken at each load.
}
