// The time line of a run: an overview with a brush that says which part of it the rows show, and an axis.
// Times here are milliseconds since the run's first moment, as the rows have them in data-from and data-to.

const panel = document.getElementById("timeline");
const rows = document.getElementById("nodes");
const overview = panel?.querySelector(".overview");
const lines = panel?.querySelector(".overview-lines");
const brush = panel?.querySelector(".brush");
const handles = { from: document.getElementById("brush-from"), to: document.getElementById("brush-to") };
const axis = document.getElementById("axis");

const loadedAt = performance.now();
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5,
  72e5, 108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5, 25920e5, 77760e5, 315360e5];
const LEAST = 1; // a millisecond: nearer than that nothing can be told apart
const PIXELS = 4; // a shorter drag is a click

let whole = { first: 0, last: LEAST };
let shown = null; // what the brush has chosen; null: the whole line

function now() {
  return Number(panel.dataset.now) + performance.now() - loadedAt;
}

function isRunning() {
  return document.getElementById("run-head")?.hasAttribute("data-running") ?? false;
}

function measure() {
  let first = Number(panel.dataset.first);
  let last = Number(panel.dataset.last);
  for (const row of rows.rows) {
    if (!row.dataset.from) continue;
    first = Math.min(first, Number(row.dataset.from));
    last = Math.max(last, Number(row.dataset.to));
  }
  if (isRunning()) last = Math.max(last, now());
  whole = { first, last: Math.max(last, first + LEAST) };
}

function view() {
  if (!shown) return whole;
  return { first: Math.max(shown.first, whole.first), last: Math.min(shown.last, whole.last) };
}

// -- words ------------------------------------------------------------------------------------------------------------

function two(number) {
  return String(number).padStart(2, "0");
}

// A time as the server writes it (span_words in contextstore/_display/amounts.py), as short as the step of an axis allows.
function words(ms, step = 0) {
  const sign = ms < 0 ? "-" : "+";
  const size = Math.abs(ms);
  if (size < 0.5 && step) return "0";
  if (size < 999.5) return `${sign}${Math.round(size)} ms`;
  if (size < 59995) return `${sign}${(size / 1000).toFixed(step >= 1000 ? 0 : step >= 100 ? 1 : step ? 3 : 2)} s`;
  const seconds = Math.round(size / 1000);
  for (const [length, unit, part, partUnit] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (seconds < length) continue;
    const rest = Math.floor((seconds % length) / part);
    return `${sign}${Math.floor(seconds / length)} ${unit}` + (rest || !step ? ` ${two(rest)} ${partUnit}` : "");
  }
  return "";
}

// -- drawing ----------------------------------------------------------------------------------------------------------

function percent(at, { first, last }) {
  return ((at - first) / (last - first)) * 100;
}

function drawRow(row, span) {
  const from = Number(row.dataset.from);
  const to = Number(row.dataset.to);
  row.hidden = Boolean(shown) && (!row.dataset.from || to < span.first || from > span.last);
  if (row.hidden) return;
  row.querySelector(".span")?.setAttribute("viewBox", `${span.first} 0 ${span.last - span.first} 10`);
  for (const mark of row.querySelectorAll(".mark")) {
    const at = percent(Number(mark.dataset.at), span);
    mark.setAttribute("x", `${at}%`);
    mark.toggleAttribute("hidden", at < 0 || at > 100);
  }
}

function drawAxis(span) {
  const width = axis.clientWidth || 300;
  const step = STEPS.find((one) => ((span.last - span.first) / one) * 84 <= width) ?? STEPS.at(-1);
  const ticks = [];
  for (let at = Math.ceil(span.first / step) * step; at <= span.last; at += step) ticks.push(at);
  const labels = ticks.map((at) => {
    const label = document.createElement("span");
    const place = percent(at, span);
    label.textContent = words(at, step);
    label.style.left = `${place}%`;
    if ((place / 100) * width < 24) label.className = "at-start";
    return label;
  }).filter((label) => (parseFloat(label.style.left) / 100) * width < width - (isRunning() && !shown ? 64 : 30));
  if (isRunning() && view().last === whole.last) {
    const label = document.createElement("span");
    label.textContent = "now";
    label.className = "at-end";
    label.style.left = "100%";
    labels.push(label);
  }
  axis.classList.add("is-drawn");
  axis.replaceChildren(...labels);
}

// All of the page's nodes in a few pixels: each a line, and what has failed a red point.
function drawOverview() {
  const height = Math.max(rows.rows.length, 12);
  let good = "";
  let failed = "";
  [...rows.rows].forEach((row, place) => {
    if (!row.dataset.from) return;
    if (!("failed" in row.dataset)) good += `M${row.dataset.from} ${place + 0.5}H${row.dataset.to}`;
    for (const mark of row.querySelectorAll(".mark")) failed += `M${mark.dataset.at} ${place + 0.5}h0`;
  });
  lines.setAttribute("viewBox", `${whole.first} 0 ${whole.last - whole.first} ${height}`);
  lines.replaceChildren(...[["written", good], ["failed", failed]].map(([name, path]) => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
    drawn.setAttribute("class", name);
    drawn.setAttribute("d", path);
    return drawn;
  }));
}

function drawBrush() {
  const span = view();
  brush.hidden = !shown;
  brush.style.left = `${percent(span.first, whole)}%`;
  brush.style.width = `${percent(span.last, whole) - percent(span.first, whole)}%`;
  for (const [name, at] of [["from", span.first], ["to", span.last]]) {
    const handle = handles[name];
    handle.style.left = `${percent(at, whole)}%`;
    handle.ariaValueMin = String(Math.round(whole.first));
    handle.ariaValueMax = String(Math.round(whole.last));
    handle.ariaValueNow = String(Math.round(at));
    handle.ariaValueText = words(at);
  }
}

function tell() {
  const zoomed = document.getElementById("zoomed");
  zoomed.hidden = !shown;
  document.getElementById("shown-nodes").hidden = Boolean(shown);
  if (!shown) return;
  const hidden = [...rows.rows].filter((row) => row.hidden).length;
  const span = view();
  const text = `${words(span.first)} to ${words(span.last)}: ${rows.rows.length - hidden} nodes, ${hidden} outside are hidden`;
  const place = document.getElementById("zoomed-words");
  if (place.textContent !== text) place.textContent = text;
}

function drawZoom() {
  const span = view();
  for (const row of rows.rows) drawRow(row, span);
  drawAxis(span);
  drawBrush();
  tell();
}

// A state value may be the first of a run.
function showState() {
  if (document.getElementById("states")?.rows.length) document.getElementById("state").hidden = false;
}

function draw() {
  measure();
  const isEmpty = rows.rows.length === 0;
  const count = document.getElementById("shown-nodes");
  if ("all" in count.dataset) count.textContent = `${rows.rows.length} ${rows.rows.length === 1 ? "node" : "nodes"}`;
  overview.hidden = isEmpty;
  rows.closest("table").classList.toggle("is-empty", isEmpty);
  if (isEmpty) return;
  document.getElementById("nothing")?.remove();
  drawOverview();
  drawZoom();
}

// -- choosing ---------------------------------------------------------------------------------------------------------

function choose(first, last) {
  const [from, to] = first <= last ? [first, last] : [last, first];
  const least = Math.max(LEAST, (whole.last - whole.first) / 1e6);
  const begin = Math.min(Math.max(from, whole.first), whole.last - least);
  const end = Math.max(Math.min(to, whole.last), begin + least);
  shown = begin <= whole.first && end >= whole.last ? null : { first: begin, last: end >= whole.last ? Infinity : end };
  drawZoom();
}

function reset() {
  shown = null;
  drawZoom();
}

function timeAt(event) {
  const box = overview.getBoundingClientRect();
  return whole.first + ((event.clientX - box.left) / box.width) * (whole.last - whole.first);
}

// What a drag does depends on where it began: at a handle, within the brush, or beside it.
function dragOf(event) {
  const { first, last } = view();
  const began = timeAt(event);
  if (event.target === handles.from) return (at) => choose(Math.min(at, last), last);
  if (event.target === handles.to) return (at) => choose(first, Math.max(at, first));
  if (event.target !== brush) return (at) => choose(began, at);
  return (at) => {
    const by = Math.min(Math.max(at - began, whole.first - first), whole.last - last);
    choose(first + by, last + by);
  };
}

function listenToPointers() {
  let drag = null;
  let x = 0;
  let isMoving = false;
  overview.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = dragOf(event);
    x = event.clientX;
    isMoving = false;
    overview.setPointerCapture(event.pointerId);
  });
  overview.addEventListener("pointermove", (event) => {
    if (!drag) return;
    isMoving ||= Math.abs(event.clientX - x) >= PIXELS;
    if (isMoving) drag(timeAt(event));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    overview.addEventListener(end, () => {
      drag = null;
    });
  }
  overview.addEventListener("dblclick", reset);
}

function listenToHandles() {
  const part = () => (whole.last - whole.first) / 100;
  const moves = {
    ArrowLeft: (at, isFar) => at - part() * (isFar ? 10 : 1),
    ArrowDown: (at, isFar) => at - part() * (isFar ? 10 : 1),
    ArrowRight: (at, isFar) => at + part() * (isFar ? 10 : 1),
    ArrowUp: (at, isFar) => at + part() * (isFar ? 10 : 1),
    PageDown: (at) => at - part() * 10,
    PageUp: (at) => at + part() * 10,
    Home: () => whole.first,
    End: () => whole.last,
  };
  for (const [name, handle] of Object.entries(handles)) {
    handle.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      const { first, last } = view();
      const at = move(name === "from" ? first : last, event.shiftKey);
      if (name === "from") choose(Math.min(at, last), last);
      else choose(first, Math.max(at, first));
    });
  }
}

if (panel && overview) {
  listenToPointers();
  listenToHandles();
  document.getElementById("zoom-reset").addEventListener("click", reset);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shown && !document.querySelector("dialog[open]")) reset();
  });
  document.addEventListener("contextstore:swapped", draw);
  document.addEventListener("contextstore:swapped", showState);
  new ResizeObserver(() => rows.rows.length && drawAxis(view())).observe(axis);
  setInterval(() => {
    if (isRunning() && !document.hidden) draw();
  }, 1000);
  draw();
}
