/** What the log of this process may not hold, whoever puts it into a line: tokens of vreg, and the one that was chosen. */
import { withoutTokens } from '../../src/protocol/token.ts';

/** Shorter ones would mask half of the log; they are no secrets. */
const MIN_LENGTH = 6;
/** Characters that are looked for, since V8 takes no pattern of any length; what follows them in the word goes with them. */
const MAX_PATTERN = 1024;
/** What a pattern would not take as it is. */
const SIGNS = /[\\^$.*+?()[\]{}|]/g;

/** How a secret may stand in a line. */
interface Forms {
  /** As it is, and as JSON has it. */
  literal: readonly string[];
  /** As a URL has it: who writes one chooses which characters are percent-encoded, and in which case. */
  encoded: RegExp;
}

const secrets = new Map<string, Forms>();

/** From now on the secret is kept out of the log. */
export function keepOutOfLog(secret: string): void {
  if (secret.length < MIN_LENGTH || secrets.has(secret)) return;
  const characters = [...secret];
  const pattern = characters.slice(0, MAX_PATTERN).map(encodedForm).join('');
  const encoded = new RegExp(`${pattern}${characters.length > MAX_PATTERN ? '[^\\s"]*' : ''}`, 'g');
  secrets.set(secret, { literal: [...new Set([secret, inJson(secret)])], encoded });
}

/** @param line of the log, or a text for one @returns it with `***` in the place of secrets */
export function redact(line: string): string {
  let text = withoutTokens(line);
  for (const { literal, encoded } of secrets.values()) {
    for (const form of literal) if (text.includes(form)) text = text.replaceAll(form, '***');
    if (text.includes('%')) text = text.replace(encoded, '***');
  }
  return text;
}

/** A pattern that goes on in one way at most, whatever stands there, so that it takes time in proportion to the line. */
function encodedForm(character: string): string {
  const bytes = [...Buffer.from(character)].map((byte) => `%${eitherCase(byte.toString(16).padStart(2, '0'))}`);
  const plain = character === '%' ? '%(?!25)' : inJson(character).replace(SIGNS, '\\$&');
  return `(?:${bytes.join('')}|${plain})`;
}

function eitherCase(hex: string): string {
  return hex.replace(/[a-f]/g, (digit) => `[${digit}${digit.toUpperCase()}]`);
}

function inJson(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}
