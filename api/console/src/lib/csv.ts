/** Writes what is shown as a file of comma-separated values (RFC 4180). */

export interface CsvColumn<Row> {
  readonly title: string;
  readonly text: (row: Row) => string;
}

export function csvText<Row>(columns: readonly CsvColumn<Row>[], rows: readonly Row[]): string {
  const lines = [columns.map((column) => column.title)];
  for (const row of rows) lines.push(columns.map((column) => column.text(row)));
  return lines.map((line) => `${line.map(field).join(',')}\r\n`).join('');
}

/** A field that a spreadsheet would run as a formula gets an apostrophe before it. */
function field(text: string): string {
  const safe = /^[=+@\t\r]|^-(?!\d)/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function downloadCsv(name: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: 'text/csv;charset=utf-8' }));
  const link = document.createElement('a');
  link.href = address;
  link.download = `${name}.csv`;
  link.click();
  URL.revokeObjectURL(address);
}
