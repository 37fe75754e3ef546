/** Text of clients, as it may be logged and repeated: somebody may put a secret where none is asked for. */
import { TOKEN_TEXT } from '../../src/protocol/token.ts';

const TOKENS = new RegExp(TOKEN_TEXT, 'g');
/** Names of query parameters that are given secrets elsewhere. */
const NAMES = /token|secret|password|auth|key|bearer/i;
/** Percent-encodings of what tokens and such names are made of (RFC 3986, 2.3): nothing that a terminal would act on. */
const ENCODED = /%(2d|3\d|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])/gi;

/** Puts `***` in the place of the tokens that vreg made. */
export function withoutTokens(text: string): string {
  return text.replace(TOKENS, 'vreg_***');
}

/** A URL with `***` in the place of what is, or may be, a secret. Takes time in proportion to it, whatever is in it. */
export function withoutSecrets(url: string): string {
  const at = url.indexOf('?');
  if (at < 0) return maskedPart(url);
  const query = url
    .slice(at + 1)
    .split('&')
    .map(maskedPair)
    .join('&');
  return `${maskedPart(url.slice(0, at))}?${query}`;
}

function maskedPair(pair: string): string {
  const end = pair.indexOf('=');
  const name = end < 0 ? '' : pair.slice(0, end);
  return NAMES.test(decoded(name)) ? `${maskedPart(name)}=***` : maskedPart(pair);
}

/** What holds a token once it is decoded is shown decoded. */
function maskedPart(part: string): string {
  const masked = withoutTokens(part);
  if (!masked.includes('%')) return masked;
  const plain = decoded(masked);
  const without = withoutTokens(plain);
  return without === plain ? masked : without;
}

function decoded(text: string): string {
  return text.replace(ENCODED, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
