import type { Schemas } from '../../../api/client';
import { isPast } from '../../../lib/time';

/** Whether a key still opens anything, in a word. */
export function stateOf(
  key: Schemas['ApiKeyView'],
  now = Date.now(),
): 'works' | 'revoked' | 'expired' {
  if (key.revoked_at !== null) return 'revoked';
  return isPast(key.expires_at, now) ? 'expired' : 'works';
}
