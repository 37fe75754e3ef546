/** Text of clients, as it may be logged and repeated: somebody may put a secret where none is asked for. */

/** A token that vreg made. */
const TOKEN = /vreg_[\w-]{43}/g;
/** Names of query parameters that are given secrets elsewhere. */
const NAMES = /token|secret|password|auth|key/i;

/** Puts `***` in the place of what is, or may be, a secret. */
export function withoutSecrets(text: string): string {
  return text
    .replace(/([?&])([^=&]*)=([^&]*)/g, (whole, mark: string, name: string) =>
      NAMES.test(decoded(name)) ? `${mark}${name}=***` : whole,
    )
    .replace(TOKEN, 'vreg_***');
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
