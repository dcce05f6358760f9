import TextField from '@mui/material/TextField';
import { useEffect, useState } from 'react';

interface FilterFieldProps {
  label: string;
  value: string;
  onChange: (value: string) => void;
}

/** A filter of text: it asks when Enter is pressed or the field is left, not at every letter. */
export function FilterField({ label, value, onChange }: FilterFieldProps) {
  const [text, setText] = useState(value);
  const [shown, setShown] = useState(value);
  if (shown !== value) {
    setShown(value);
    setText(value);
  }
  const commit = () => {
    if (text.trim() !== value) onChange(text.trim());
  };
  return (
    <TextField
      label={label}
      value={text}
      onChange={(event) => setText(event.target.value)}
      onBlur={commit}
      onKeyDown={(event) => event.key === 'Enter' && commit()}
    />
  );
}

const TYPED_MS = 250;

/** A search: it asks while somebody types, a moment after the last letter. */
export function SearchField({ label, value, onChange }: FilterFieldProps) {
  const [text, setText] = useState(value);
  const [shown, setShown] = useState(value);
  if (shown !== value) {
    setShown(value);
    setText(value);
  }
  useEffect(() => {
    if (text.trim() === value) return;
    const timer = setTimeout(() => onChange(text.trim()), TYPED_MS);
    return () => clearTimeout(timer);
  });
  return (
    <TextField
      type="search"
      label={label}
      value={text}
      onChange={(event) => setText(event.target.value)}
    />
  );
}

/** A day of the books, in UTC. */
export function DayField({ label, value, onChange }: FilterFieldProps) {
  return (
    <TextField
      type="date"
      label={`${label} (UTC)`}
      value={value}
      onChange={(event) => onChange(event.target.value)}
      slotProps={{ inputLabel: { shrink: true } }}
    />
  );
}

interface ChoiceFieldProps extends FilterFieldProps {
  options: readonly (readonly [value: string, label: string])[];
}

export function ChoiceField({ label, value, onChange, options }: ChoiceFieldProps) {
  return (
    <TextField
      select
      label={label}
      value={value}
      onChange={(event) => onChange(event.target.value)}
      slotProps={{ select: { native: true }, inputLabel: { shrink: true } }}
    >
      {options.map(([option, name]) => (
        <option key={option} value={option}>
          {name}
        </option>
      ))}
    </TextField>
  );
}
