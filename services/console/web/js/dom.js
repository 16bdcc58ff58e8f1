// The one way in which this page makes elements. Text goes in as text, never
// as markup, wherever it comes from.

export const byId = (id) => document.getElementById(id);

// el makes an element with attributes (className and dataset included) and
// children, each an element or a text.
export function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "className") e.className = value;
    else if (name === "state") e.dataset.state = value;
    else e.setAttribute(name, value);
  }
  for (const child of children) e.append(child);
  return e;
}

// say sets an element's text, and touches the page only if it changes.
export function say(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

export function show(e, visible) {
  if (e.hidden === visible) e.hidden = !visible;
}

export function state(e, value) {
  if (e.dataset.state !== value) e.dataset.state = value;
}

// rows keeps a table's body in step with a list: a row that is still in it
// keeps its element, so that a selection and the reader's place survive.
// version says when a row must be made anew.
export function rows(body, list, key, version, make) {
  const old = new Map();
  for (const row of body.children) old.set(row.dataset.key, row);
  let at = body.firstElementChild;
  for (const item of list) {
    const k = key(item), v = version(item);
    let row = old.get(k);
    old.delete(k);
    if (row === undefined || row.dataset.version !== v) {
      const fresh = make(item);
      fresh.dataset.key = k;
      fresh.dataset.version = v;
      if (row !== undefined) {
        if (row === at) at = fresh;
        row.replaceWith(fresh);
      }
      row = fresh;
    }
    if (row === at) at = at.nextElementSibling;
    else body.insertBefore(row, at);
  }
  for (const row of old.values()) row.remove();
}
