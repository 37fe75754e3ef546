/** Serves the fleet page. Its files contain nothing secret, so they need no token; the page logs in before it reads the fleet. */
import { PATHS } from '../../../src/protocol/api.ts';
import type { RequestContext, Result } from '../context.ts';
import { chooseEncoding, loadPage, pageFile, prefersHtml } from '../page.ts';

/** The policy has no exceptions: the page has no inline scripts or styles, and creates no HTML from text. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
].join('; ');

/** A response that is in memory. */
export type StaticResult = Result & { body: string | Buffer; type: string };

const headersWith = (caching: string): readonly string[] => [
  'content-security-policy',
  POLICY,
  'cross-origin-opener-policy',
  'same-origin',
  'cross-origin-resource-policy',
  'same-origin',
  'referrer-policy',
  'no-referrer',
  'cache-control',
  caching,
  'x-content-type-options',
  'nosniff',
  'vary',
  'accept-encoding',
];
const INDEX_HEADERS = headersWith('no-store');
/** The name of a file contains the hash of its content. */
const FILE_HEADERS = headersWith('public, max-age=31536000, immutable');

/** `GET /ui/`. */
export function sendIndex(ctx: RequestContext): Result {
  return sendFile(ctx, 'index.html', INDEX_HEADERS);
}

/**
 * `GET /ui/login`. Opening the link of a log-in does not use it up: the page sends its `token` when the user confirms.
 * @throws VregError INVALID if `token` is given twice
 */
export function sendLogIn(ctx: RequestContext): Result {
  ctx.param('token');
  return sendIndex(ctx);
}

/** `GET /`, for browsers: the same page, with the paths of its files relative to this URL. */
export function sendIndexAtRoot(ctx: RequestContext): Result {
  return sendFile(ctx, 'root.html', INDEX_HEADERS);
}

/** `GET /ui/FILE`. */
export function sendPageFile(ctx: RequestContext): Result {
  const { file = '' } = ctx.params;
  return sendFile(ctx, file.endsWith('.html') ? '' : file, FILE_HEADERS);
}

/** `GET /ui`: the paths of the page are relative to `/ui/`. */
export function redirectToPage(): StaticResult {
  return { status: 308, body: '', type: 'text/plain; charset=utf-8', headers: { location: 'ui/' } };
}

/**
 * The page of a daemon that is still loading its store. The page waits until the registry answers, and then continues.
 * @returns undefined if the page has no such path
 */
export function sendPageWhileLoading(path: string, headers: RequestContext['headers']): StaticResult | undefined {
  if (path === '/') return prefersHtml(headers.accept) ? sendFile({ headers }, 'root.html', INDEX_HEADERS) : undefined;
  if (`${path}/` === PATHS.page) return redirectToPage();
  if (path === PATHS.page || path === PATHS.logIn) return sendFile({ headers }, 'index.html', INDEX_HEADERS);
  const file = path.startsWith(PATHS.page) ? path.slice(PATHS.page.length) : '';
  return loadPage().has(file) && !file.endsWith('.html') ? sendFile({ headers }, file, FILE_HEADERS) : undefined;
}

function sendFile(
  { headers }: Pick<RequestContext, 'headers'>,
  name: string,
  browserHeaders: readonly string[],
): StaticResult {
  const file = pageFile(name);
  const encoding = chooseEncoding(headers['accept-encoding'] as string | undefined);
  return {
    status: 200,
    body: file[encoding],
    type: file.type,
    browserHeaders,
    ...(encoding === 'identity' ? {} : { headers: { 'content-encoding': encoding } }),
  };
}
