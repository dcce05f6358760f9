/**
 * Amounts of credits. Inside the console they are whole millicredits, as everywhere in Taximeter;
 * credits with three decimals exist only in JSON and on the screen.
 */

declare const unit: unique symbol;

/** A whole number of millicredits. At most 9e14 either way, which a number holds exactly. */
export type Milli = number & { readonly [unit]: 'millicredits' };

export const MILLI_PER_CREDIT = 1000;
export const ZERO = 0 as Milli;
/** The most that one request may move: 10^12 millicredits. */
export const AMOUNT_MAX = 1_000_000_000_000 as Milli;

/** Takes credits as they stand in the API's JSON: at most three decimals. */
export function fromCredits(credits: number): Milli {
  const milli = Math.round(credits * MILLI_PER_CREDIT);
  if (!Number.isSafeInteger(milli)) throw new RangeError(`not an amount: ${credits}`);
  return (milli === 0 ? 0 : milli) as Milli;
}

/** What the API's JSON wants: the number whose shortest text is the exact amount. */
export function toCredits(amount: Milli): number {
  return Number(plainText(amount));
}

export function plus(...amounts: readonly Milli[]): Milli {
  const sum = amounts.reduce<number>((total, amount) => total + amount, 0);
  if (!Number.isSafeInteger(sum)) throw new RangeError('a sum is beyond what is exact');
  return sum as Milli;
}

export function minus(amount: Milli, less: Milli): Milli {
  return plus(amount, (0 - less) as Milli);
}

/** `1234.500`: a point, no separators; what a field shows and a file says. */
export function plainText(amount: Milli): string {
  const whole = Math.trunc(Math.abs(amount) / MILLI_PER_CREDIT);
  const rest = Math.abs(amount) % MILLI_PER_CREDIT;
  return `${amount < 0 ? '-' : ''}${whole}.${String(rest).padStart(3, '0')}`;
}

/** `41,230.118` in the reader's own way of writing numbers; always three decimals. */
export function formatAmount(amount: Milli, locale?: string): string {
  // Intl takes text exactly where it is given text; its types do not say so yet.
  return formatterOf(locale).format(plainText(amount) as unknown as number);
}

const formatters = new Map<string | undefined, Intl.NumberFormat>();

function formatterOf(locale: string | undefined): Intl.NumberFormat {
  let formatter = formatters.get(locale);
  if (!formatter) {
    formatter = new Intl.NumberFormat(locale, {
      minimumFractionDigits: 3,
      maximumFractionDigits: 3,
    });
    formatters.set(locale, formatter);
  }
  return formatter;
}

/** For axes and other places where only the size matters: `41.2K`. */
export function roughly(amount: Milli, locale?: string): string {
  return new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 }).format(
    amount / MILLI_PER_CREDIT,
  );
}

/** Dollars as the API gives them: at most two decimals. */
export function formatDollars(dollars: number, locale?: string): string {
  return new Intl.NumberFormat(locale, { style: 'currency', currency: 'USD' }).format(dollars);
}

export type Parsed =
  | { readonly amount: Milli; readonly problem: null }
  | { readonly amount: null; readonly problem: string };

/**
 * Reads what somebody typed. A comma or a point is the decimal sign and may stand once, so that
 * `1,234.5` is refused and not guessed at.
 */
export function parseAmount(text: string): Parsed {
  const trimmed = text.trim();
  const refuse = (problem: string): Parsed => ({ amount: null, problem });
  if (trimmed === '') return refuse('Write an amount.');
  const match = /^(\d*)(?:[.,](\d*))?$/.exec(trimmed);
  if (!match || (!match[1] && !match[2])) {
    return refuse('Digits and one decimal sign only, such as 1234.500.');
  }
  const [, whole = '', decimals = ''] = match;
  if (decimals.length > 3) return refuse('At most three decimals.');
  const milli = Number(whole || '0') * MILLI_PER_CREDIT + Number(decimals.padEnd(3, '0'));
  if (milli === 0) return refuse('More than 0.');
  if (milli > AMOUNT_MAX) return refuse(`At most ${plainText(AMOUNT_MAX)} at once.`);
  return { amount: milli as Milli, problem: null };
}

/** A share in per cent with one decimal, such as 41.2; 0 of 0 is 0. */
export function percentOf(part: Milli, whole: Milli): number {
  return whole > 0 ? Math.round((part / whole) * 1000) / 10 : 0;
}
