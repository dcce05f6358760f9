/**
 * Sends what moves credits, once: one Idempotency-Key from when a dialog is opened until its answer
 * is known, over reloads. Nothing is shown as done before the API has said so.
 */
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { isSessionOver, leavesDoubt } from '../api/refusal';
import { endDraft, markRefused, markSent, openDraft } from '../lib/drafts';
import { noticeSessionEnd } from '../session/ended';
import { useSession } from '../session/session';

export type MoveState<Body, Answer> =
  | { readonly is: 'editing'; readonly refusal: unknown }
  | { readonly is: 'sending'; readonly body: Body }
  /** Sent, and nobody knows whether it took effect: only the same may be sent again. */
  | { readonly is: 'doubt'; readonly body: Body; readonly reason: unknown }
  | { readonly is: 'done'; readonly answer: Answer };

export interface Move<Body, Answer> {
  readonly state: MoveState<Body, Answer>;
  readonly send: (body: Body) => void;
  /** Ends the draft, unless it is in doubt: then it waits for the next time. */
  readonly close: () => void;
}

/** `name` says what is moved where; `send` gets the body and the key. */
export function useMove<Body, Answer>(
  name: string,
  send: (body: Body, key: string) => Promise<Answer>,
): Move<Body, Answer> {
  const { userId } = useSession();
  const client = useQueryClient();
  const place = `${userId}/${name}`;
  const [draft] = useState(() => openDraft<Body>(place));
  const [state, setState] = useState<MoveState<Body, Answer>>(() =>
    draft.sent === null
      ? { is: 'editing', refusal: null }
      : { is: 'doubt', body: draft.sent, reason: null },
  );

  const run = async (body: Body) => {
    const wasInDoubt = state.is === 'doubt';
    markSent(place, draft, body);
    setState({ is: 'sending', body });
    try {
      const answer = await send(body, draft.key);
      endDraft(place);
      setState({ is: 'done', answer });
      await client.invalidateQueries();
    } catch (error) {
      if (isSessionOver(error)) noticeSessionEnd();
      if (leavesDoubt(error, wasInDoubt)) {
        setState({ is: 'doubt', body, reason: error });
      } else {
        markRefused(place, draft);
        setState({ is: 'editing', refusal: error });
      }
    }
  };

  return {
    state,
    send: (body) => {
      if (state.is === 'editing' || state.is === 'doubt') void run(body);
    },
    close: () => {
      if (state.is === 'editing' || state.is === 'done') endDraft(place);
    },
  };
}
