/** The API's client: typed by its own OpenAPI, refusals are thrown. */
import { QueryCache, QueryClient, MutationCache } from '@tanstack/react-query';
import createFetchClient from 'openapi-fetch';
import createQueryClient from 'openapi-react-query';

import { isPassing, isSessionOver, NoAnswer, refusalOf } from './refusal';
import type { components, paths } from './schema';
import { noticeSessionEnd } from '../session/ended';

export type Schemas = components['schemas'];

const TRIES = 2;

export const fetchClient = createFetchClient<paths>({ baseUrl: location.origin });
fetchClient.use({
  async onResponse({ response }) {
    if (!response.ok) throw await refusalOf(response);
  },
  onError({ error }) {
    return new NoAnswer(error);
  },
});

/** `api.useQuery('get', '/api/v1/…', { params })`: its key is the method, path and parameters. */
export const api = createQueryClient(fetchClient);

function noticed(error: unknown): void {
  if (isSessionOver(error)) noticeSessionEnd();
}

export const queryClient = new QueryClient({
  queryCache: new QueryCache({ onError: noticed }),
  mutationCache: new MutationCache({ onError: noticed }),
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      retry: (failures, error) => failures < TRIES && isPassing(error),
    },
    // What changes something is never sent again by itself: a person decides.
    mutations: { retry: false },
  },
});
