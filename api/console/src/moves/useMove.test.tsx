import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { act, renderHook, waitFor } from '@testing-library/react';
import type { ReactNode } from 'react';
import { beforeEach, expect, it, vi } from 'vitest';

import { useMove } from './useMove';
import { NoAnswer, Refusal } from '../api/refusal';

vi.mock('../session/session', () => ({ useSession: () => ({ userId: 'ann' }) }));

type Body = { credits: number };
const wrapper = ({ children }: { children: ReactNode }) => (
  <QueryClientProvider client={new QueryClient()}>{children}</QueryClientProvider>
);
const opened = (send: (body: Body, key: string) => Promise<string>) =>
  renderHook(() => useMove<Body, string>('acme/transfer', send), { wrapper });

beforeEach(() => sessionStorage.clear());

it('sends once however often it is pressed', async () => {
  const send = vi.fn(() => Promise.resolve('moved'));
  const { result } = opened(send);
  act(() => result.current.send({ credits: 5 }));
  act(() => result.current.send({ credits: 5 }));
  await waitFor(() => expect(result.current.state).toEqual({ is: 'done', answer: 'moved' }));
  expect(send).toHaveBeenCalledTimes(1);
});

it('is in doubt after a lost answer, and asks again by the same key after a reload', async () => {
  const keys: string[] = [];
  const first = opened((_body, key) => {
    keys.push(key);
    return Promise.reject(new NoAnswer(null));
  });
  act(() => first.result.current.send({ credits: 5 }));
  await waitFor(() => expect(first.result.current.state.is).toBe('doubt'));
  first.result.current.close();
  first.unmount();

  const second = opened((_body, key) => {
    keys.push(key);
    return Promise.resolve('moved');
  });
  expect(second.result.current.state).toMatchObject({ is: 'doubt', body: { credits: 5 } });
  act(() => second.result.current.send({ credits: 5 }));
  await waitFor(() => expect(second.result.current.state.is).toBe('done'));
  expect(new Set(keys).size).toBe(1);
});

it('may be mended after a refusal, and uses another key the next time it is opened', async () => {
  const keys: string[] = [];
  const refuse = (_body: Body, key: string) => {
    keys.push(key);
    return Promise.reject(new Refusal(400, 'INSUFFICIENT_CREDITS', 'Too little.'));
  };
  const first = opened(refuse);
  act(() => first.result.current.send({ credits: 5 }));
  await waitFor(() => expect(first.result.current.state).toMatchObject({ is: 'editing' }));
  first.result.current.close();
  const second = opened(refuse);
  act(() => second.result.current.send({ credits: 4 }));
  await waitFor(() => expect(keys).toHaveLength(2));
  expect(new Set(keys).size).toBe(2);
});
