import Table from '@mui/material/Table';
import TableBody from '@mui/material/TableBody';
import TableCell from '@mui/material/TableCell';
import TableHead from '@mui/material/TableHead';
import TableRow from '@mui/material/TableRow';

import type { Milli } from '../lib/money';
import { Amount } from '../parts/Amount';

export interface Change {
  name: string;
  before: Milli;
  after: Milli;
}

/** What would be before and after, in credits. The answer's own figures count in the end. */
export function Preview({ changes }: { changes: readonly Change[] }) {
  if (changes.length === 0) return null;
  return (
    <Table size="small" aria-label="Before and after">
      <TableHead>
        <TableRow>
          <TableCell>In credits</TableCell>
          <TableCell align="right">Before</TableCell>
          <TableCell align="right">After</TableCell>
        </TableRow>
      </TableHead>
      <TableBody>
        {changes.map(({ name, before, after }) => (
          <TableRow key={name}>
            <TableCell sx={{ overflowWrap: 'anywhere' }}>{name}</TableCell>
            <TableCell align="right">
              <Amount of={before} />
            </TableCell>
            <TableCell align="right" sx={{ fontWeight: 600 }}>
              <Amount of={after} />
            </TableCell>
          </TableRow>
        ))}
      </TableBody>
    </Table>
  );
}
