import { EmptyState } from './EmptyState';
import { Amount } from './Amount';
import { Moment } from './Moment';
import { Rows } from './Rows';
import type { Milli } from '../lib/money';

export interface Ending {
  id: string;
  /** Whose credits, or where. */
  name: React.ReactNode;
  at: string;
  /** What is left of them. */
  amount: Milli;
  /** Whether they begin anew then. */
  renews: boolean;
}

interface EndingsProps {
  /** The head of the first column. */
  of: string;
  endings: readonly Ending[];
  empty: string;
}

/** Credits that end, the next first. */
export function Endings({ of, endings, empty }: EndingsProps) {
  if (endings.length === 0) return <EmptyState title={empty} />;
  return (
    <Rows
      label="What ends when"
      rows={endings}
      keyOf={(one) => one.id}
      columns={[
        { name: 'Ends', cell: (one) => <Moment at={one.at} /> },
        { name: of, cell: (one) => one.name },
        { name: 'Left', figure: true, cell: (one) => <Amount of={one.amount} /> },
        {
          name: 'Then',
          wide: true,
          cell: (one) => (one.renews ? 'begins anew' : 'returns to the pool'),
        },
      ]}
    />
  );
}
