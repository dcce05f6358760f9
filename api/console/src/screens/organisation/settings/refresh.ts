import { parseAmount, ZERO, type Milli } from '../../../lib/money';

/** What was typed as credits a month: an amount, or 0 for none; null for what is neither. */
export function refreshOf(text: string): Milli | null {
  return /^\s*0+([.,]0{0,3})?\s*$/.test(text) ? ZERO : parseAmount(text).amount;
}
