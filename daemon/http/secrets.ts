/** Text of clients, as it may be logged and repeated: somebody may put a secret where none is asked for. */

/** A token that vreg made. */
const TOKEN = /vreg_[\w-]{43}/g;
/** Names of query parameters that are given secrets elsewhere. */
const NAMES = /token|secret|password|auth|key|bearer/i;

/** Puts `***` in the place of what is, or may be, a secret. Takes time in proportion to the text, whatever is in it. */
export function withoutSecrets(text: string): string {
  const at = text.indexOf('?');
  const query =
    at < 0
      ? ''
      : text
          .slice(at + 1)
          .split('&')
          .map(maskedPair)
          .join('&');
  return (at < 0 ? text : `${text.slice(0, at)}?${query}`).replace(TOKEN, 'vreg_***');
}

function maskedPair(pair: string): string {
  const end = pair.indexOf('=');
  const name = end < 0 ? '' : pair.slice(0, end);
  return NAMES.test(decoded(name)) ? `${name}=***` : pair;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
