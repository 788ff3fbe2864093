// Ages go on while the page is open. In the words of the server (contextstore/_display/amounts.py).
const UNITS = [[31536000, "y"], [2592000, "mo"], [86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

export function age(seconds) {
  if (Math.abs(seconds) < 1) return "now";
  const whole = Math.floor(Math.abs(seconds));
  const [length, unit] = UNITS.find(([least]) => whole >= least);
  const words = `${Math.floor(whole / length)} ${unit}`;
  return seconds < 0 ? `in ${words}` : `${words} ago`;
}

function count() {
  if (document.hidden) return;
  const now = Date.now();
  for (const time of document.querySelectorAll("time[datetime]")) {
    const words = age((now - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== words) time.textContent = words;
  }
}

export function keepTimesCurrent() {
  setInterval(count, 1000);
  document.addEventListener("visibilitychange", count);
}
