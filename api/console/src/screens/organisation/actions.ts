/** What an admin can begin from anywhere: the palette's actions, each an address with a dialog. */
import type { PaletteEntry } from '../../shell/paletteEntries';

export function actionsOf(orgId: string): PaletteEntry[] {
  const at = `/o/${encodeURIComponent(orgId)}`;
  const action = (title: string, path: string, dialog: string): PaletteEntry => ({
    group: 'Actions',
    title,
    hint: '',
    to: at + path,
    search: { do: dialog },
  });
  return [
    action('Transfer credits between members', '/members', 'transfer'),
    action('Allocate credits to a member', '/members', 'allocate'),
    action('Return credits to the pool', '/members', 'deallocate'),
    action('Buy credits', '', 'buy'),
  ];
}
