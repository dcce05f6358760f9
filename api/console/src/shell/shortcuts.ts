/** The keyboard: ⌘K or Ctrl+K searches, `?` lists the keys, `g` and a letter lead to a screen. */
import { useNavigate } from '@tanstack/react-router';
import { useEffect, useEffectEvent } from 'react';

import { useRail } from './railEntries';

const SECOND_KEY_MS = 1500;
export const paletteKeys = navigator.userAgent.includes('Mac') ? '⌘K' : 'Ctrl K';

export function useShortcuts(act: { search: () => void; help: () => void }): void {
  const navigate = useNavigate();
  const entries = useRail().flatMap((group) => group.entries);

  const pressed = useEffectEvent((event: KeyboardEvent, afterG: boolean): boolean => {
    if (event.key.toLowerCase() === 'k' && (event.metaKey || event.ctrlKey)) {
      event.preventDefault();
      act.search();
      return false;
    }
    if (event.metaKey || event.ctrlKey || event.altKey || isBusy(event.target)) return false;
    if (event.key === '?') act.help();
    const entry = afterG && entries.find(({ letter }) => letter === event.key);
    if (entry) void navigate({ to: entry.address });
    return event.key === 'g' && !afterG;
  });

  useEffect(() => {
    let gAt = 0;
    const onKey = (event: KeyboardEvent) => {
      const waits = pressed(event, event.timeStamp - gAt < SECOND_KEY_MS);
      gAt = waits ? event.timeStamp : -SECOND_KEY_MS;
    };
    gAt = -SECOND_KEY_MS;
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
}

/** Whether keys belong to something else: a field, or an open dialog or menu. */
function isBusy(target: EventTarget | null): boolean {
  const element = target instanceof HTMLElement ? target : null;
  return (
    element?.closest('input, textarea, select, [contenteditable], [role=dialog], [role=menu]') !=
      null || document.querySelector('[role=dialog]') !== null
  );
}
