import { expect, it } from 'vitest';

import { csvText } from './csv';

const columns = [
  { title: 'user', text: (row: string[]) => row[0] ?? '' },
  { title: 'credits', text: (row: string[]) => row[1] ?? '' },
];

it('quotes what needs it and lets no spreadsheet run it', () => {
  const text = csvText(columns, [
    ['ann, "the first"', '-0.004'],
    ['=HYPERLINK("x")', '1.000'],
    ['-cmd', '1.000'],
  ]);
  expect(text).toBe(
    'user,credits\r\n"ann, ""the first""",-0.004\r\n"\'=HYPERLINK(""x"")",1.000\r\n\'-cmd,1.000\r\n',
  );
});
