import Alert from '@mui/material/Alert';
import Chip from '@mui/material/Chip';
import Typography from '@mui/material/Typography';

import { Figures } from './Figures';
import type { Schemas } from '../../api/client';
import { Count } from '../../parts/Amount';
import { EmptyState } from '../../parts/EmptyState';
import { Moment } from '../../parts/Moment';
import { Panel } from '../../parts/Panel';
import { Rows } from '../../parts/Rows';

type Books = Schemas['Books'];

const WORDS = {
  right: { severity: 'success', text: 'The books are right.' },
  wrong: { severity: 'error', text: 'The books are NOT right.' },
  unproved: { severity: 'warning', text: 'The books are not proved.' },
} as const;

/** What the settler has proved of the books, invariant by invariant, and what it has sealed. */
export function Proofs({ books }: { books: Books }) {
  const { look, proofs, verdict } = books;
  return (
    <>
      <Alert severity={WORDS[verdict].severity} variant="outlined">
        {WORDS[verdict].text} Looked at <Moment at={look.checked_at} as="ago" />; all proved right{' '}
        <Moment at={look.proved_at} as="ago" />.
        {look.could_not_look && ` The last try saw nothing: ${look.could_not_look}`}
      </Alert>
      <Panel title="What was proved" flush={proofs.length > 0}>
        {proofs.length === 0 ? (
          <EmptyState title="Nothing was proved yet" command="taximeter check">
            A settler proves every invariant again and again, and writes down what it finds.
          </EmptyState>
        ) : (
          <Rows
            label="What was proved"
            rows={proofs}
            keyOf={(one) => one.name}
            columns={[
              { name: 'Invariant', cell: (one) => one.name },
              {
                name: 'What must hold',
                cell: (one) => (
                  <>
                    {one.title}
                    {[...one.violations, ...one.could_not_be_read].map((said) => (
                      <Typography key={said} variant="body2" color="error">
                        {said}
                      </Typography>
                    ))}
                    {one.violations.length > 0 &&
                      one.when_this_fires.map((said) => (
                        <Typography key={said} variant="caption" component="div">
                          When this fires: {said}
                        </Typography>
                      ))}
                  </>
                ),
              },
              {
                name: 'Figures',
                wide: true,
                cell: (one) =>
                  Object.entries(one.figures)
                    .map(
                      ([name, value]) => `${name.replaceAll('_', ' ')} ${value.toLocaleString()}`,
                    )
                    .join(', '),
              },
              {
                name: 'Result',
                cell: (one) => (
                  <Chip
                    size="small"
                    variant="outlined"
                    color={one.holds ? 'success' : one.holds === null ? 'warning' : 'error'}
                    label={one.holds ? 'holds' : one.holds === null ? 'not proved' : 'violated'}
                  />
                ),
              },
              { name: 'Proved', wide: true, cell: (one) => <Moment at={one.proved_at} as="ago" /> },
            ]}
          />
        )}
      </Panel>
      <Panel title="Seals">
        <Figures
          of={[
            { name: 'Seals', value: <Count of={look.seals} /> },
            { name: 'Sealed rows', value: <Count of={look.rows_sealed} /> },
            { name: 'Rows not sealed yet', value: <Count of={look.rows_new} /> },
            { name: 'Sealed until', value: <Moment at={look.sealed_until} /> },
            { name: 'All read again since', value: <Moment at={look.round_began_at} /> },
          ]}
        />
        {look.seal_head && (
          <Typography
            variant="caption"
            component="p"
            sx={{ mt: 1.5, mb: 0, overflowWrap: 'anywhere', color: 'text.secondary' }}
          >
            Head of the chain: {look.seal_head}
          </Typography>
        )}
      </Panel>
    </>
  );
}
