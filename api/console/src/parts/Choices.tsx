import Box from '@mui/material/Box';
import Checkbox from '@mui/material/Checkbox';
import FormControlLabel from '@mui/material/FormControlLabel';
import FormGroup from '@mui/material/FormGroup';
import FormLabel from '@mui/material/FormLabel';

interface ChoicesProps<Choice> {
  legend: string;
  options: readonly (readonly [Choice, string])[];
  chosen: readonly Choice[];
  onChange: (chosen: Choice[]) => void;
}

/** Several of a list. */
export function Choices<Choice extends string | number>(props: ChoicesProps<Choice>) {
  const { legend, options, chosen, onChange } = props;
  const toggle = (one: Choice) =>
    onChange(chosen.includes(one) ? chosen.filter((other) => other !== one) : [...chosen, one]);
  return (
    <Box component="fieldset" sx={{ border: 0, m: 0, p: 0, minWidth: 0 }}>
      <FormLabel component="legend">{legend}</FormLabel>
      <FormGroup>
        {options.map(([one, label]) => (
          <FormControlLabel
            key={one}
            control={
              <Checkbox size="small" checked={chosen.includes(one)} onChange={() => toggle(one)} />
            }
            label={label}
          />
        ))}
      </FormGroup>
    </Box>
  );
}
