// While the id of a run is typed, the runs that begin so are offered.
const PAUSE = 200;

// As the pages show an id: a field of a form holds no line breaks.
function shown(id) {
  return /[\p{C}\p{Zl}\p{Zp}]/u.test(id) ? JSON.stringify(id) : id;
}

async function offer(input) {
  const url = new URL(input.form.dataset.runs, location.href);
  url.searchParams.set("prefix", input.value);
  const answer = await fetch(url);
  if (!answer.ok) return;
  const { runs } = await answer.json();
  const options = runs.map((run) => {
    const option = document.createElement("option");
    option.value = shown(run.flow_run_id);
    option.textContent = `${run.state}, ${run.outputs} output${run.outputs === 1 ? "" : "s"}`;
    return option;
  });
  if (runs.length > 0) input.list.replaceChildren(...options);
}

for (const input of document.querySelectorAll("input[data-runs]")) {
  let timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => offer(input).catch(() => {}), PAUSE);
  });
}
