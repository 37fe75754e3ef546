/** Text of clients, as it may be logged and repeated: somebody may put a secret where none is asked for. */
import { withoutTokens } from '../../src/protocol/token.ts';
import { redact } from '../process/redaction.ts';

/** Names of query parameters that are given secrets elsewhere. */
const NAMES = /token|secret|pass|pwd|auth|key|bearer|jwt|cred|session|^sig|^pw$/i;
/** Percent-encodings of what tokens and such names are made of (RFC 3986, 2.3): nothing that a terminal would act on. */
const ENCODED = /%(2d|3\d|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])/gi;

/** Characters of a client's text that are logged: a line shall not cost more than what it tells of. */
const MAX_LOGGED = 1024;

/** The beginning of a text that is long. The chosen token is taken out first: half of it would not be found any more. */
export function shortened(text: string): string {
  return text.length > MAX_LOGGED ? `${redact(text).slice(0, MAX_LOGGED)}…` : text;
}

/**
 * A URL with `***` in the place of what is, or may be, a secret, and without percent-encodings that hide one (RFC 3986,
 * 6.2.2.2). Takes time in proportion to it, whatever is in it.
 */
export function withoutSecrets(url: string): string {
  const plain = withoutTokens(url.replace(ENCODED, decoded));
  const at = plain.indexOf('?');
  if (at < 0) return plain;
  const query = plain.slice(at + 1).split('&');
  return `${plain.slice(0, at)}?${query.map(maskedPair).join('&')}`;
}

function maskedPair(pair: string): string {
  const end = pair.indexOf('=');
  return end >= 0 && NAMES.test(pair.slice(0, end)) ? `${pair.slice(0, end)}=***` : pair;
}

function decoded(_encoded: string, hex: string): string {
  return String.fromCharCode(Number.parseInt(hex, 16));
}
