/** How the system is, live: one stream while the screen is shown. */
import { useEffect, useState } from 'react';

import type { Schemas } from '../../api/client';

const STALE_AFTER_MS = 5000;
const RECONNECT_MS = 2000;

export interface SystemLive {
  said: Schemas['LiveSystem'] | null;
  isLive: boolean;
  asOf: string | null;
}

export function useSystemLive(): SystemLive {
  const [live, setLive] = useState<SystemLive>({ said: null, isLive: false, asOf: null });
  useEffect(() => {
    let source: EventSource | null = null;
    let silence: ReturnType<typeof setTimeout> | undefined;
    let reconnect: ReturnType<typeof setTimeout> | undefined;
    const heard = (asOf: string, said?: Schemas['LiveSystem']) => {
      clearTimeout(silence);
      silence = setTimeout(
        () => setLive((before) => ({ ...before, isLive: false })),
        STALE_AFTER_MS,
      );
      setLive((before) => ({ said: said ?? before.said, isLive: true, asOf }));
    };
    const again = () => {
      source?.close();
      setLive((before) => ({ ...before, isLive: false }));
      reconnect = setTimeout(connect, RECONNECT_MS);
    };
    function connect() {
      source = new EventSource('/api/v1/org-billing/system/live');
      source.addEventListener('system', (event) => {
        const said = JSON.parse(event.data as string) as Schemas['LiveSystem'];
        heard(said.as_of, said);
      });
      source.addEventListener('beat', (event) => {
        heard((JSON.parse(event.data as string) as { as_of: string }).as_of);
      });
      source.addEventListener('end', again);
      source.addEventListener('error', () => {
        if (source?.readyState === EventSource.CLOSED) again();
      });
    }
    connect();
    return () => {
      clearTimeout(silence);
      clearTimeout(reconnect);
      source?.close();
    };
  }, []);
  return live;
}
