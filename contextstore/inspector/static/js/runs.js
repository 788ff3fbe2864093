// The search for runs: an address has only what is looked for.
const form = document.querySelector("form.runs-search");

form.addEventListener("formdata", ({ formData }) => {
  for (const name of new Set(formData.keys())) {
    const given = formData.getAll(name).filter((text) => text !== "");
    formData.delete(name);
    for (const text of given) formData.append(name, text);
  }
});
