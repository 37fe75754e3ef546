/** What people typed, as it may be printed again: a URL with a password in it is no less secret for being wrong. */

/** In the place of what is not shown. */
const MASK = '***';

/** What is wrong with the URL of a registry: it holds a user or a password, a query or a fragment, or is none. */
export type UrlFault = 'secret' | 'query' | 'form';

export function faultOfUrl(text: string): UrlFault | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // A path may hold an @, as below /run/user@1000; that of a web server is written with %40.
  const isPath = url?.protocol === 'unix:' && url.pathname.startsWith('/') && !url.username && !url.password;
  if (text.includes('@') && !isPath) return 'secret';
  if (/[?#]/.test(text)) return 'query';
  return url && ['http:', 'https:', 'unix:'].includes(url.protocol) ? undefined : 'form';
}

/** The URL of a registry, without what may be a secret in it. */
export function shownUrl(text: string): string {
  const fault = faultOfUrl(text);
  if (fault !== 'secret' && fault !== 'query') return text;
  const query = text.search(/[?#]/);
  if (fault === 'query') return `${text.slice(0, query + 1)}${MASK}`;
  const [scheme = ''] = /^[a-z]+:\/\//i.exec(text) ?? [];
  // A password may hold whatever ends a host, so only what stands behind the last @ is none of it.
  return query < 0 ? `${scheme}${MASK}@${text.slice(text.lastIndexOf('@') + 1)}` : `${scheme}${MASK}`;
}

/** A text with `***` in the place of what stands before the @ of a URL in it. Takes time in proportion to it. */
export function withoutUsers(text: string): string {
  return text.replace(/(?<=(?<!\/)\/\/)(?!\/)[^\s"]{0,1000}@/g, `${MASK}@`);
}

/** The value of a setting that is wrong: it may be such a URL that got to the wrong place. */
export function shownValue(text: string): string {
  return text.includes('@') ? MASK : text;
}

/** A name that is not known: an @ is possible in it, but not behind what a URL begins with. */
export function shownName(text: string): string {
  return /[:/].*@/s.test(text) ? MASK : text;
}
