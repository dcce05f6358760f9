/** Whose credits are taken and how many: what transferring and returning have in common. */
import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { AmountField } from './AmountField';
import { useMemberBalance, type MemberBalance } from './balances';
import { MemberField } from './MemberField';
import { formatAmount, parseAmount, type Milli } from '../lib/money';

export interface DialogProps {
  orgId: string;
  /** Whom the dialog was opened for, where it was opened at somebody's row. */
  user: string;
  onClose: () => void;
}

export interface Giver {
  from: string;
  /** Both known, and the one within what can be taken of the other now; else null. */
  taken: { amount: Milli; balance: MemberBalance } | null;
  fromField: (props?: { except?: string }) => React.ReactNode;
  amountField: React.ReactNode;
}

/** `word`: what can be done with what is there, such as "moved". */
export function useGiver(orgId: string, user: string, word: string): Giver {
  const [from, setFrom] = useState(user);
  const [text, setText] = useState('');
  const balance = useMemberBalance(orgId, from);
  const { amount } = parseAmount(text);
  const tooMuch =
    balance && amount !== null && amount > balance.available
      ? `${formatAmount(balance.available)} can be ${word} now.`
      : null;
  return {
    from,
    taken: amount !== null && balance && tooMuch === null ? { amount, balance } : null,
    fromField: (props) => (
      <MemberField
        orgId={orgId}
        label="From"
        value={from}
        onChange={setFrom}
        balance={balance}
        autoFocus={user === ''}
        {...props}
      />
    ),
    amountField: (
      <>
        <AmountField value={text} onChange={setText} problem={tooMuch} />
        {balance && balance.held > 0 && (
          <Typography variant="body2" sx={{ color: 'text.secondary' }}>
            {formatAmount(balance.held)} credits are held by open requests of {from} and stay there.
          </Typography>
        )}
      </>
    ),
  };
}
