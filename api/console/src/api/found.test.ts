import { expect, it } from 'vitest';

import type { Schemas } from './client';
import { keysOf } from './found';

const key = (name: string, key_id: string) => ({ name, key_id }) as Schemas['ApiKeyView'];
const KEYS = [key('Gateway in Frankfurt', 'Ab12Cd34Ef56'), key('nightly', 'Zz98Yy76Xx54')];
const found = (text: string) => keysOf(KEYS, text).map((one) => one.name);

it('finds a key by a part of its name', () => {
  expect(found('frank')).toEqual(['Gateway in Frankfurt']);
  expect(found('i')).toEqual(['Gateway in Frankfurt', 'nightly']);
});

it('finds a key by the beginning of its text, by its id, and by all of it', () => {
  expect(found('tm_Zz')).toEqual(['nightly']);
  expect(found('Zz98Yy76Xx54')).toEqual(['nightly']);
  expect(found('tm_Zz98Yy76Xx54_secret')).toEqual(['nightly']);
  expect(found('tm_other')).toEqual([]);
});
