/** Pages that follow each other by a cursor: the way back is remembered while the screen is open. */
import { useState } from 'react';

export interface Cursor {
  at: string | undefined;
  page: number;
  back: (() => void) | null;
  /** Leads on, where the API has said what follows. */
  to: (next: string | null | undefined) => (() => void) | null;
  begin: () => void;
}

export function useCursor(): Cursor {
  const [passed, setPassed] = useState<readonly string[]>([]);
  return {
    at: passed.at(-1),
    page: passed.length + 1,
    back: passed.length > 0 ? () => setPassed(passed.slice(0, -1)) : null,
    to: (next) => (next ? () => setPassed([...passed, next]) : null),
    begin: () => setPassed([]),
  };
}
