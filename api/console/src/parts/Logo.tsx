import Box from '@mui/material/Box';
import Typography from '@mui/material/Typography';

/** A gauge and the name. */
export function Logo({ small = false }: { small?: boolean }) {
  return (
    <Box sx={{ display: 'flex', alignItems: 'center', gap: 1.25 }}>
      <Box
        component="svg"
        viewBox="0 0 32 32"
        aria-hidden
        sx={{ width: 28, height: 28, color: 'primary.main', flex: 'none' }}
      >
        <rect width="32" height="32" rx="8" fill="currentColor" />
        <Box
          component="g"
          sx={{ stroke: (theme) => theme.vars.palette.primary.contrastText, fill: 'none' }}
          strokeWidth="2.6"
          strokeLinecap="round"
        >
          <path d="M7 21a9 9 0 1 1 18 0" />
          <path d="M16 21l5-6.5" />
        </Box>
      </Box>
      {!small && (
        <Typography
          component="span"
          sx={{ fontWeight: 650, letterSpacing: '-0.02em', fontSize: '1rem' }}
        >
          Taximeter
        </Typography>
      )}
    </Box>
  );
}
