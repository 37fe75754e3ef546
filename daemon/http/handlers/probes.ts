/**
 * `GET /livez` and `GET /readyz`, for supervisors and load balancers. Both answer one word. With `?verbose` and a token, they
 * list the checks, in the format of Kubernetes and etcd.
 */
import { setTimeout } from 'node:timers/promises';
import { formatChecks, type ProbeCheck } from '../../../src/protocol/probe.ts';
import type { MonitoredStore } from '../../store/monitored-store.ts';
import type { RequestContext, Result } from '../context.ts';
import type { Services } from '../services.ts';

/** Milliseconds for which a probe waits for the store: half of the time after which Kubernetes gives up. */
const PATIENCE = 500;
/** Milliseconds without an answer after which the store counts as unreadable. A busy disk answers within a few seconds. */
const UNREADABLE_AFTER = 10_000;
/** Milliseconds without an answer after which the store counts as dead, so that a supervisor may restart the daemon. */
const DEAD_AFTER = 60_000;
/** Seconds after which a registry that is not ready should be asked again. */
const RETRY_AFTER = '1';

interface Check extends ProbeCheck {
  /** The answer of the probe if this check is the first that is not ok. */
  word: string;
}

/** Fails only if the store is dead. A dead event loop answers nothing. */
export function livez(ctx: RequestContext): Result {
  const { store } = ctx.services;
  void store.read();
  return answer(ctx, 'livez', [ok('event-loop'), checkAlive(store)]);
}

/** Fails while the registry is draining, or if its store cannot be read. */
export async function readyz(ctx: RequestContext): Promise<Result> {
  const { services } = ctx;
  const { store } = services;
  const reading = new AbortController();
  await Promise.race([store.read(), setTimeout(PATIENCE, undefined, { signal: reading.signal }).catch(() => {})]);
  reading.abort();
  return answer(ctx, 'readyz', [
    checkDraining(services),
    checkReadable(store),
    checkWrites(store),
    checkHistory(services),
    checkFleet(services),
  ]);
}

/** True if a request for a probe asks for the checks, for which it needs a token. As in Kubernetes, any value will do. */
export function isVerbose(ctx: Pick<RequestContext, 'queryParams'>): boolean {
  const { verbose } = ctx.queryParams;
  return verbose !== undefined && verbose !== 'false';
}

/** @throws VregError INVALID if `verbose` is given twice */
function answer(ctx: RequestContext, probe: string, checks: readonly Check[]): Result {
  ctx.param('verbose');
  const hasFailed = checks.some(({ result }) => result === 'fail');
  const word = checks.find(({ result }) => result !== 'ok')?.word ?? 'ok';
  const body = isVerbose(ctx) ? formatChecks(probe, checks) : word;
  return {
    status: hasFailed ? 503 : 200,
    body,
    type: 'text/plain; charset=utf-8',
    headers: hasFailed ? { 'retry-after': RETRY_AFTER } : undefined,
  };
}

function checkAlive(store: MonitoredStore): Check {
  if (store.waiting < DEAD_AFTER) return ok('store');
  return { name: 'store', result: 'fail', word: 'dead', reason: `has not answered for ${seconds(store.waiting)}` };
}

function checkDraining({ stopping }: Services): Check {
  if (!stopping.aborted) return ok('running');
  return { name: 'running', result: 'fail', word: 'draining', reason: 'the daemon is shutting down' };
}

function checkReadable({ waiting, readFailure }: MonitoredStore): Check {
  const name = 'store';
  const word = 'unreadable';
  if (waiting >= UNREADABLE_AFTER)
    return { name, result: 'fail', word, reason: `has not answered for ${seconds(waiting)}` };
  if (readFailure) return { name, result: 'fail', word, reason: readFailure.message };
  return waiting < PATIENCE ? ok(name) : { ...ok(name), reason: `ok, busy for ${seconds(waiting)}` };
}

function checkWrites({ writeFailure, lastWriteFailure }: MonitoredStore): Check {
  if (!writeFailure) return ok('writes');
  const reason = lastWriteFailure ? `the last write failed: ${lastWriteFailure.message}` : writeFailure.message;
  return { name: 'writes', result: 'warn', word: 'degraded', reason };
}

function checkHistory({ registry }: Services): Check {
  const { rolledBack, otherRegistry } = registry.historyClaims;
  const [name, result, word] = ['history', 'warn', 'copied'] as const;
  if (otherRegistry)
    return { name, result, word, reason: 'another registry answers at the URL of this one: see vreg conflicts' };
  if (rolledBack === 0) return ok(name);
  const agents = rolledBack === 1 ? 'the agent of 1 VM has' : `the agents of ${rolledBack} VMs have`;
  return { name, result, word, reason: `${agents} seen another history: this registry was restored or copied` };
}

function checkFleet({ registry }: Services): Check {
  const { warmingSeconds } = registry;
  if (warmingSeconds === 0) return ok('fleet');
  const reason = `answers may include dead VMs for another ${warmingSeconds} s`;
  return { name: 'fleet', result: 'warn', word: 'warming', reason };
}

function ok(name: string): Check {
  return { name, result: 'ok', word: 'ok', reason: 'ok' };
}

function seconds(ms: number): string {
  return `${Math.floor(ms / 1000)} s`;
}
