import { expect, it } from 'vitest';

import { endingsOf } from './endings';
import type { Schemas } from '../../api/client';

function organization(name: string, expires_at: string | null | undefined) {
  return {
    org_id: name,
    org_name: name,
    allocation:
      expires_at === undefined ? null : { expires_at, remaining_credits: 1.5, auto_renew: false },
  } as unknown as Schemas['BillingOfOrganization'];
}

it('has what ends, the next first, whatever time zone it is written in', () => {
  const found = endingsOf([
    organization('later', '2027-01-01T00:00:00Z'),
    organization('never', null),
    organization('nothing', undefined),
    organization('sooner', '2027-01-01T00:30:00+02:00'),
  ]);
  expect(found.map((one) => one.id)).toEqual(['sooner', 'later']);
  expect(found[0]?.amount).toBe(1500);
});
