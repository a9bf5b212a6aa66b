/**
 * Fills `place` with a table. `columns` are `[title, row => cell]`; a cell is a text, a `{text, tone}`, or a node of
 * the document. Nothing is ever taken for markup.
 */
export function showTable(place, columns, rows) {
  const section = place.closest('section');
  if (section) section.hidden = rows.length === 0;
  const table = document.createElement('table');
  const head = table.createTHead().insertRow();
  for (const [title] of columns) {
    const cell = document.createElement('th');
    cell.scope = 'col';
    cell.textContent = title;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const [, content] of columns) fill(line.insertCell(), content(row));
  }
  place.replaceChildren(table);
}

function fill(cell, content) {
  if (content instanceof Node) cell.append(content);
  else if (typeof content === 'object' && content !== null) {
    cell.textContent = content.text;
    if (content.tone) cell.className = content.tone;
  } else cell.textContent = content ?? '';
}
