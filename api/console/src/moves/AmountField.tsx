import TextField from '@mui/material/TextField';

import { parseAmount } from '../lib/money';

interface AmountFieldProps {
  value: string;
  onChange: (text: string) => void;
  /** Said instead of what is wrong with the text itself, such as that there is not as much. */
  problem?: string | null;
  label?: string;
  /** What 0 means, where it is an amount as well. */
  zero?: string;
}

/** An amount of credits, with at most three decimals. */
export function AmountField({
  value,
  onChange,
  problem = null,
  label = 'Credits',
  zero,
}: AmountFieldProps) {
  const isZero = zero !== undefined && /^\s*0+([.,]0{0,3})?\s*$/.test(value);
  const wrong = value === '' || isZero ? null : (parseAmount(value).problem ?? problem);
  return (
    <TextField
      label={label}
      value={value}
      onChange={(event) => onChange(event.target.value)}
      error={wrong !== null}
      helperText={wrong ?? zero ?? 'At most three decimals'}
      autoComplete="off"
      slotProps={{
        htmlInput: {
          inputMode: 'decimal',
          step: 0.001,
          sx: { fontVariantNumeric: 'tabular-nums' },
        },
      }}
    />
  );
}
