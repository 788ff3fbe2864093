// A value: what is not here yet is fetched when it is unfolded; places, and what is at them, are copied.
const panel = document.getElementById("value");

async function fragmentOf(address) {
  const url = new URL(address, location.href);
  url.searchParams.set("fragment", "branch");
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const template = document.createElement("template");
  template.innerHTML = await answer.text(); // what our server has rendered
  return template.content;
}

// A link that stands for what is behind it is replaced by that; it stays a link if that cannot be had.
async function unfold(link) {
  if (link.dataset.busy) return;
  link.dataset.busy = "1";
  const hadFocus = document.activeElement === link;
  try {
    const content = await fragmentOf(link.href);
    const first = content.querySelector("[data-open], [tabindex], a[href]");
    if ("whole" in link.dataset) link.parentElement.querySelector(".string").remove();
    link.replaceWith(content);
    if (hadFocus && first) first.focus({ preventScroll: true });
  } catch (error) {
    delete link.dataset.busy;
    say(`It could not be fetched: ${error.message}`);
  }
}

function linkWithin(details) {
  return details.querySelector(":scope > .inside > a[data-more]");
}

function say(sentence) {
  panel.querySelector(".said").textContent = sentence;
}

// -- the place that is looked at ---------------------------------------------------------------------------------------

let here = null;

function steps() {
  const found = [];
  for (let one = here; one && one !== panel; one = one.parentElement) {
    if (one.matches(".branch, .leaf")) found.unshift(one);
  }
  return found;
}

function isListAround(line) {
  return line.parentElement.closest("[data-kind]").dataset.kind === "array";
}

function nameOf(token) {
  return token.replaceAll("~1", "/").replaceAll("~0", "~");
}

function pointer() {
  const tokens = steps().map((line) => line.dataset.token);
  return tokens.includes(undefined) ? null : panel.dataset.pointer + tokens.map((token) => `/${token}`).join("");
}

function python() {
  const names = steps().map((line) => {
    const name = nameOf(line.dataset.token ?? "");
    return isListAround(line) ? `[${name}]` : `[${JSON.stringify(name)}]`;
  });
  return panel.dataset.python + names.join("");
}

function stand(line) {
  here?.classList.remove("at");
  here = line;
  here?.classList.add("at");
  panel.querySelector(".here-path").textContent = pointer() ?? "a key on the way is too long for a path";
  for (const button of panel.querySelectorAll("[data-copy]")) button.disabled = pointer() === null;
  say("");
}

async function textOf(what) {
  if (what === "pointer") return pointer();
  if (what === "python") return python();
  const url = new URL(panel.dataset.file, location.href);
  if (pointer()) url.searchParams.set("at", pointer());
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.text();
}

async function copy(what) {
  try {
    const text = await textOf(what);
    if (!navigator.clipboard) throw new Error("the browser gives no page a clipboard over plain http");
    await navigator.clipboard.writeText(text);
    say(text.length > 999 ? `Copied ${text.length.toLocaleString("en")} characters` : "Copied");
  } catch (error) {
    say(`Not copied: ${error.message}`);
  }
}

if (panel && panel.dataset.kind !== "bytes") {
  panel.addEventListener("toggle", (event) => {
    const link = event.target.open && event.target.matches("details[data-lazy]") && linkWithin(event.target);
    if (link) unfold(link);
  }, true);
  panel.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-more], a[data-whole]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      unfold(link);
      return;
    }
    const button = event.target.closest("[data-copy]");
    if (button) copy(button.dataset.copy);
    else if (event.target.closest(".tree") && !event.target.closest(".leaf, summary")) stand(null);
  });
  panel.addEventListener("focusin", (event) => {
    const line = event.target.closest(".tree .leaf, .tree summary");
    if (line) stand(line.matches("summary") ? line.parentElement : line);
  });
}
