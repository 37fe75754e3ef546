/** `GET /registry/discover/:role`, at once or when there are enough live VMs. */
import { DEFAULT_WAIT_MIN, MAX_WAIT } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Entry } from '../registry/entry.ts';
import { type Answer, type Call, invalidQuery } from './call.ts';

/**
 * With `wait=30s` the answer is held until at least `min` (default 1) VMs are live, or the time is over; then it is what
 * there is, so a caller looks at the count as without waiting.
 */
export function discoverWhen(call: Call): Answer | Promise<Answer> {
  const { role } = call.request.params as { role: string };
  // A script whose $ROLE is empty shall not read "nobody there".
  if (role === '') throw new VregError('NOT_FOUND', 'no such route: a role must follow /registry/discover/');
  const { wait } = call.query('wait');
  const patience = wait === undefined ? 0 : parseWait(wait);
  const min = call.number('min', 0, Number.MAX_SAFE_INTEGER) ?? DEFAULT_WAIT_MIN;
  const found = call.registry.discover(role);
  if (patience === 0 || found.length >= min) return call.entries(found);
  return waitFor(call, role, min, patience).then((entries) => call.entries(entries));
}

function waitFor({ registry, reply, stopping }: Call, role: string, min: number, patience: number): Promise<Entry[]> {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      stopWatching();
      stopping.removeEventListener('abort', finish);
      reply.raw.off('close', finish);
      resolve(registry.discover(role));
    };
    const timer = setTimeout(finish, patience);
    const stopWatching = registry.events.watch({
      event: (event) => {
        if (event.role === role && registry.discover(role).length >= min) finish();
      },
      heartbeat: () => {},
    });
    stopping.addEventListener('abort', finish, { once: true });
    reply.raw.once('close', finish);
    if (stopping.aborted) finish();
  });
}

/** Milliseconds of `30s` or `500ms`, at most {@link MAX_WAIT}. */
function parseWait(text: string): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m)$/.exec(text) ?? [];
  if (amount === undefined) throw invalidQuery('wait', `wait: "${text}" is not a duration such as 30s`);
  return Math.min(Number(amount) * { ms: 1, s: 1000, m: 60_000 }[unit as 'ms' | 's' | 'm'], MAX_WAIT);
}
