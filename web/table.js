/**
 * Fills `place` with a table, or empties it. `columns` are `[title, row => cell]`; a cell is a text, a `{text, tone}`,
 * or a node of the document. Nothing is ever taken for markup. A section without content is hidden.
 */
export function showTable(place, columns, rows) {
  show(place, rows.length === 0 ? [] : [tableOf(columns, rows)]);
}

/** The content of `place`, and with it of its section. */
export function show(place, nodes) {
  place.replaceChildren(...nodes);
  const section = place.closest('section');
  if (section)
    section.hidden = [...section.querySelectorAll('div')].every((one) => one.childNodes.length === 0);
}

export function element(name, options = {}, children = []) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

function tableOf(columns, rows) {
  const table = element('table');
  const head = table.createTHead().insertRow();
  for (const [title] of columns) head.append(element('th', { scope: 'col', textContent: title }));
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const [, content] of columns) fill(line.insertCell(), content(row));
  }
  return table;
}

function fill(cell, content) {
  if (content instanceof Node) cell.append(content);
  else if (typeof content === 'object' && content !== null) {
    cell.textContent = content.text;
    if (content.tone) cell.className = content.tone;
  } else cell.textContent = content ?? '';
}
