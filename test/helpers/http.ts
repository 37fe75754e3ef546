/** Sent by vreg clients, which get the headers with facts about the registry. */
export const AS_VREG_CLIENT = { 'x-vreg-client': '1' };

/** A response that was read completely. */
export interface Answered {
  status: number;
  headers: Headers;
  body: unknown;
}

/** Sends a request, with any body but a string as JSON. @throws if the response is not JSON, except to HEAD */
export async function call(
  base: string,
  method: string,
  path: string,
  { body, headers = {} }: { body?: unknown; headers?: Record<string, string> } = {},
): Promise<Answered> {
  const sent = body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body);
  const type: Record<string, string> = sent === null ? {} : { 'content-type': 'application/json' };
  const answer = await fetch(base + path, { method, body: sent, headers: { ...type, ...headers } });
  const text = await answer.text();
  if (method === 'HEAD') return { status: answer.status, headers: answer.headers, body: undefined };
  const mediaType = answer.headers.get('content-type');
  if (!mediaType?.startsWith('application/json')) throw new Error(`${method} ${path} was answered with ${mediaType}`);
  return { status: answer.status, headers: answer.headers, body: JSON.parse(text) };
}

/** @returns the message of an error response. @throws if there is none */
export function errorOf({ body }: Pick<Answered, 'body'>): string {
  const { error } = body as { error?: unknown };
  if (typeof error !== 'string' || error === '') throw new Error(`no error sentence in ${JSON.stringify(body)}`);
  return error;
}
