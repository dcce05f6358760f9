/** What somebody typed into a field of a count: a whole number, 0 for nothing. */
export function wholeNumber(text: string | undefined): number {
  const digits = (text ?? '').replace(/[\s_]/g, '');
  return /^\d{1,9}$/.test(digits) ? Number(digits) : 0;
}
