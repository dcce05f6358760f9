/** Links and buttons that lead to another screen without loading the page anew. */
import Button, { type ButtonProps } from '@mui/material/Button';
import MuiLink, { type LinkProps } from '@mui/material/Link';
import { Link as RouterLink } from '@tanstack/react-router';
import type { AnchorHTMLAttributes, Ref } from 'react';

import type { Filters } from '../app/addresses';

interface Target {
  /** Below /console. */
  to: string;
  search?: Filters;
}

/** What other components take as their `component`. */
export function PlainLink({
  search = {},
  ...props
}: Target & AnchorHTMLAttributes<HTMLAnchorElement> & { ref?: Ref<HTMLAnchorElement> }) {
  return <RouterLink search={search} {...props} />;
}

export function Go(props: Omit<LinkProps, 'href'> & Target) {
  return <MuiLink component={PlainLink} underline="hover" {...props} />;
}

export function GoButton(props: Omit<ButtonProps, 'href'> & Target) {
  return <Button component={PlainLink} {...props} />;
}
