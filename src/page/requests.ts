/** Requests of the page. The browser sends the cookie of the session. */
import { CLIENT_HEADER } from '../protocol/api.ts';
import type { ErrorBody } from '../protocol/errors.ts';
import { compareClocks } from './server-clock.ts';

/** The URL of the registry, which may be below a path of a proxy. The script is in its folder `ui/`. */
export const BASE = new URL('..', import.meta.url);

/** Milliseconds until a request without an answer fails. */
const TIMEOUT = 40_000;

/** A refused request. */
export class Refused extends Error {
  readonly status: number;
  readonly hint: string | undefined;

  constructor(status: number, message: string, hint: string | undefined) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/** @param path begins with a slash @throws Refused, or TypeError if the registry is unreachable */
export async function request<T>(method: string, path: string, body?: unknown): Promise<T> {
  const response = await fetch(new URL(`.${path}`, BASE), {
    method,
    signal: AbortSignal.timeout(TIMEOUT),
    cache: 'no-store',
    headers: { [CLIENT_HEADER]: '1', ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  compareClocks(response);
  const answer = (await response.json().catch(orEmpty)) as T & Partial<ErrorBody>;
  if (response.ok) return answer;
  throw new Refused(response.status, answer.error ?? `the registry answered with ${response.status}`, answer.hint);
}

/** A body that is not JSON has no fields. */
function orEmpty(error: unknown): object {
  if (error instanceof DOMException) throw error;
  return {};
}

/** The text of a response with any status. @param path begins with a slash @throws TypeError if the registry is unreachable */
export async function requestText(path: string): Promise<string> {
  const options = {
    headers: { [CLIENT_HEADER]: '1' },
    signal: AbortSignal.timeout(TIMEOUT),
    cache: 'no-store',
  } as const;
  const response = await fetch(new URL(`.${path}`, BASE), options);
  compareClocks(response);
  return response.text();
}

/** A part that the session may not read, or that does not exist, is undefined. */
export function ifAllowed<T>(answer: Promise<T>): Promise<T | undefined> {
  return answer.catch((error: unknown) => {
    if (error instanceof Refused && (error.status === 403 || error.status === 404)) return undefined;
    throw error;
  });
}

export function messageOf(error: unknown): string {
  if (error instanceof Refused) return error.hint === undefined ? error.message : `${error.message} (${error.hint})`;
  if (error instanceof DOMException && error.name === 'TimeoutError')
    return `the registry did not answer within ${TIMEOUT / 1000} s`;
  if (error instanceof TypeError) return 'the registry is unreachable';
  return error instanceof Error ? error.message : String(error);
}
