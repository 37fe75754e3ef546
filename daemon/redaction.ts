/** What the log of this process may not hold, whoever puts it into a line: tokens of vreg, and the one that was chosen. */
import { TOKEN_TEXT } from '../src/protocol/token.ts';

const TOKENS = new RegExp(TOKEN_TEXT, 'g');
/** Shorter ones would mask half of the log; they are no secrets. */
const MIN_LENGTH = 6;

/** As they stand in a line: as they are, in JSON, in a URL. */
const secrets = new Set<string>();

/** From now on the secret is kept out of the log. */
export function keepOutOfLog(secret: string): void {
  if (secret.length < MIN_LENGTH) return;
  for (const form of [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)]) secrets.add(form);
}

/** @param line of the log @returns it with `***` in the place of secrets */
export function redact(line: string): string {
  let text = line.replace(TOKENS, 'vreg_***');
  for (const secret of secrets) if (text.includes(secret)) text = text.replaceAll(secret, '***');
  return text;
}
