/** Columns as `psql` prints them: a header, a rule, a row a line. Figures stand right. */
export function textTable(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = header.map((name, i) => Math.max(...[name, ...rows.map((row) => row[i] ?? '')].map(width)));
  const isFigure = header.map(
    (_, i) => rows.length > 0 && rows.every((row) => /^-?[\d.]*$/.test(row[i] ?? '')),
  );
  const line = (cells: readonly string[], right: readonly boolean[]): string =>
    cells
      .map((cell, i) => {
        const gap = ' '.repeat(Math.max(0, (widths[i] ?? 0) - width(cell)));
        return right[i] ? ` ${gap}${cell} ` : ` ${cell}${gap} `;
      })
      .join('|')
      .trimEnd();
  return [
    line(header, []),
    widths.map((size) => '-'.repeat(size + 2)).join('+'),
    ...rows.map((row) => line(row, isFigure)),
  ];
}

function width(text: string): number {
  return Array.from(text).length;
}
