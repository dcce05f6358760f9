/** What an entry of the audit log has changed, name by name. */

export type State = Readonly<Record<string, unknown>> | null;

export interface Change {
  name: string;
  /** As text; null where it was not there. */
  before: string | null;
  after: string | null;
}

/** Names of both states, without those that stayed the same. */
export function changesOf(before: State, after: State): Change[] {
  const names = new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})]);
  return [...names]
    .map((name) => ({
      name: name.replaceAll('_', ' '),
      before: textOf(before, name),
      after: textOf(after, name),
    }))
    .filter((one) => one.before !== one.after);
}

function textOf(state: State, name: string): string | null {
  const value = state?.[name];
  if (value === undefined || value === null) return null;
  return typeof value === 'string' ? value : JSON.stringify(value);
}
