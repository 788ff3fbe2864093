// Puts what the server has rendered anew in the place of what is there. What has not changed stays the element that it
// is: with the focus, the selection, and whether it is unfolded.

export function elementsOf(html) {
  const parsed = document.createElement("template");
  parsed.innerHTML = html; // rendered, and escaped, by our own server
  return [...parsed.content.children];
}

export function swap(elements) {
  const focused = document.activeElement;
  const isMissing = elements.map(swapOne).includes(false);
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  document.dispatchEvent(new Event("contextstore:swapped"));
  return !isMissing;
}

// False: there is no place for it on this page.
function swapOne(fresh) {
  const old = document.getElementById(fresh.id);
  if ("gone" in fresh.dataset) {
    if (old) remove(old);
  } else if (old) {
    update(old, fresh);
  } else if (fresh.dataset.into) {
    const container = document.getElementById(fresh.dataset.into);
    if (!container) return false;
    insert(container, fresh);
  }
  return true;
}

function remove(element) {
  if (element.contains(document.activeElement)) {
    const near = element.nextElementSibling ?? element.previousElementSibling;
    near?.querySelector("a[href], button")?.focus({ preventScroll: true });
  }
  element.remove();
}

// -- arriving ---------------------------------------------------------------------------------------------------------

function insert(container, fresh) {
  const isAtStart = fresh.dataset.at === "start";
  container.insertBefore(fresh, placeOf(container, fresh, isAtStart));
  const most = Number(container.dataset.most ?? Infinity);
  while (container.children.length > most) {
    const last = isAtStart ? container.lastElementChild : container.firstElementChild;
    last.remove();
  }
  if (!fresh.isConnected) return;
  fresh.classList.add("new");
  setTimeout(() => fresh.classList.remove("new"), 2000);
}

// Rows with data-order stand by that: from the highest down where new ones come at the start, else up.
function placeOf(container, fresh, isAtStart) {
  const order = fresh.dataset.order;
  if (order === undefined) return isAtStart ? container.firstElementChild : null;
  const rows = [...container.children];
  return rows.find((row) => (isAtStart ? row.dataset.order <= order : row.dataset.order > order)) ?? null;
}

// -- changing ---------------------------------------------------------------------------------------------------------

function isAlike(old, fresh) {
  return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && (old.id ?? "") === (fresh.id ?? "");
}

function update(old, fresh) {
  if (!isAlike(old, fresh)) {
    old.replaceWith(fresh);
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    updateAttributes(old, fresh);
    updateChildren(old, fresh);
  }
}

function updateAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && name !== "open") old.setAttribute(name, value);
  }
}

// An element with an id is looked for by it, wherever it stands; whatever else by its place.
function updateChildren(old, fresh) {
  const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const found = wanted.id ? named.get(wanted.id) : place && !place.id && isAlike(place, wanted) ? place : null;
    if (found && found.nodeName === wanted.nodeName) {
      if (found === place) place = place.nextSibling;
      else old.insertBefore(found, place);
      update(found, wanted);
    } else {
      old.insertBefore(wanted, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}
