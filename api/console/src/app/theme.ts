/** Colours, type and spacing: the only place where they are chosen (see README.md, "Theming"). */
import { createTheme } from '@mui/material/styles';
import type {} from '@mui/material/themeCssVarsAugmentation';

declare module '@mui/material/styles' {
  interface Palette {
    pool: PoolColours;
  }
  interface PaletteOptions {
    pool?: PoolColours;
  }
}

interface PoolColours {
  used: string;
  held: string;
  allocated: string;
  free: string;
}

const FONT =
  "Inter, ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif";
export const MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace";

// Told apart by who sees no red, no green or no blue: after Okabe and Ito, tuned to 3:1 on paper.
export const SERIES_LIGHT = [
  '#3451b2',
  '#c77700',
  '#00845f',
  '#b0518a',
  '#2b8fc7',
  '#c2410c',
  '#6b7280',
  '#8a7a00',
  '#6d4bc4',
  '#0f766e',
  '#9f1239',
  '#475569',
  '#a3a3a3',
] as const;
export const SERIES_DARK = [
  '#8ea6ff',
  '#f0ad3d',
  '#3ccf9f',
  '#e391bf',
  '#6cc1f0',
  '#ff8a5c',
  '#9ca3af',
  '#d9c94a',
  '#b39cf5',
  '#4fd1c5',
  '#fb7f9a',
  '#94a3b8',
  '#737373',
] as const;

export const theme = createTheme({
  cssVariables: { colorSchemeSelector: 'data-scheme', cssVarPrefix: 'tm' },
  colorSchemes: {
    light: {
      palette: {
        primary: { main: '#3451b2', dark: '#273f8f', light: '#e8ecfb', contrastText: '#ffffff' },
        error: { main: '#b42318' },
        warning: { main: '#a15c00' },
        success: { main: '#067647' },
        info: { main: '#3451b2' },
        background: { default: '#f6f7f9', paper: '#ffffff' },
        text: { primary: '#171a21', secondary: '#586174', disabled: '#8a92a3' },
        divider: '#e2e5eb',
        pool: { used: '#3451b2', held: '#8093da', allocated: '#c9d2f3', free: '#eceff4' },
      },
    },
    dark: {
      palette: {
        primary: { main: '#8ea6ff', dark: '#6f8af5', light: '#222a45', contrastText: '#0d1020' },
        error: { main: '#ff8a80' },
        warning: { main: '#f5b95f' },
        success: { main: '#5fd3a0' },
        info: { main: '#8ea6ff' },
        background: { default: '#0e1014', paper: '#16191f' },
        text: { primary: '#e7e9ee', secondary: '#a1a9b8', disabled: '#6b7383' },
        divider: '#282d37',
        pool: { used: '#8ea6ff', held: '#5d72c9', allocated: '#323f70', free: '#22262f' },
      },
    },
  },
  breakpoints: { values: { xs: 0, sm: 600, md: 1000, lg: 1200, xl: 1536 } },
  shape: { borderRadius: 8 },
  typography: {
    fontFamily: FONT,
    fontSize: 14,
    h1: { fontSize: '1.375rem', fontWeight: 650, letterSpacing: '-0.015em', lineHeight: 1.3 },
    h2: { fontSize: '0.9375rem', fontWeight: 600, letterSpacing: '-0.005em', lineHeight: 1.4 },
    h3: { fontSize: '0.875rem', fontWeight: 600, lineHeight: 1.4 },
    body1: { fontSize: '0.875rem', lineHeight: 1.5 },
    body2: { fontSize: '0.8125rem', lineHeight: 1.5 },
    caption: { fontSize: '0.75rem', lineHeight: 1.4 },
    button: { textTransform: 'none', fontWeight: 550 },
  },
  components: {
    MuiCssBaseline: {
      styleOverrides: {
        body: {
          fontFeatureSettings: "'cv11', 'ss03'",
          overflowY: 'scroll',
          '@media (max-width: 600px)': { overscrollBehaviorX: 'none' },
        },
        '::selection': {
          background: 'color-mix(in srgb, var(--tm-palette-primary-main) 30%, transparent)',
        },
        '@media (prefers-reduced-motion: reduce)': {
          '*, *::before, *::after': {
            animationDuration: '0s !important',
            transitionDuration: '0s !important',
          },
        },
      },
    },
    MuiButton: {
      defaultProps: { disableElevation: true, size: 'small' },
      styleOverrides: { root: { minHeight: 34, paddingInline: 14, whiteSpace: 'nowrap' } },
    },
    MuiButtonBase: { defaultProps: { disableRipple: true } },
    MuiIconButton: { styleOverrides: { root: { borderRadius: 8 } } },
    MuiTextField: { defaultProps: { size: 'small', fullWidth: true } },
    MuiTooltip: { defaultProps: { arrow: true, enterDelay: 300, describeChild: true } },
    MuiLinearProgress: {
      styleOverrides: {
        root: ({ theme }) => ({ backgroundColor: theme.vars.palette.pool.free }),
      },
    },
    MuiTableCell: {
      styleOverrides: {
        root: ({ theme }) => ({ [theme.breakpoints.down('sm')]: { paddingInline: 8 } }),
        stickyHeader: ({ theme }) => ({ backgroundColor: theme.vars.palette.background.paper }),
      },
    },
    MuiPaper: { styleOverrides: { root: { backgroundImage: 'none' } } },
    MuiDialog: { defaultProps: { fullWidth: true, maxWidth: 'sm' } },
    MuiDialogTitle: { styleOverrides: { root: { fontSize: '1.0625rem', fontWeight: 600 } } },
    MuiDialogActions: { styleOverrides: { root: { padding: '12px 24px 20px' } } },
    MuiChip: {
      styleOverrides: { root: { fontWeight: 500, borderRadius: 6 }, sizeSmall: { height: 22 } },
    },
    MuiAlert: { styleOverrides: { root: { alignItems: 'flex-start' } } },
  },
});
