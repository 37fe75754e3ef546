/** The secrets that were sent to a server, which may send them back: a proxy that shows what it was asked, for example. */
import type { Reply } from './client/transport.ts';

/** What stands in the place of a secret. */
const MASK = '***';
/** Shorter ones are no secrets, and would stand in half of what is said: in a word, in an ETag. */
const MIN_LENGTH = 6;
/** Characters that are looked for in a body, since V8 takes no pattern of any length; what follows them in the word goes, too. */
const MAX_PATTERN = 1024;

export class SentSecrets {
  /** Longest first, so that none is left by halves when it begins with another. */
  #sent: readonly string[] = [];

  add(secret: string): void {
    if (secret.length < MIN_LENGTH || this.#sent.includes(secret)) return;
    this.#sent = [...this.#sent, secret].sort((a, b) => b.length - a.length);
  }

  /** The text with `***` in their place. */
  outOf(text: string): string {
    return this.#sent.reduce((rest, secret) => rest.replaceAll(secret, MASK), text);
  }

  /** The same of a text that may be JSON, or JSON within JSON, each of which may write a character in more than one way. */
  outOfBody(text: string): string {
    return this.#sent.reduce((rest, secret) => rest.replace(inAnyJson(secret), MASK), this.outOf(text));
  }

  outOfHeaders(headers: Reply['headers']): Reply['headers'] {
    const masked = (value: string | string[] | undefined) =>
      Array.isArray(value) ? value.map((line) => this.outOf(line)) : value && this.outOf(value);
    return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, masked(value)]));
  }

  /** Of JSON: after it was read, since JSON may write a character in more than one way. */
  outOfJson(value: unknown): unknown {
    if (typeof value === 'string') return this.outOf(value);
    if (typeof value !== 'object' || value === null) return value;
    // What is said of a failure stands at the top: what lies deeper is never printed.
    return Object.fromEntries(
      Object.entries(value).map(([name, text]) => [name, typeof text === 'string' ? this.outOf(text) : text]),
    );
  }
}

/** The secret with any number of backslashes between its characters, which are its own or JSON's. */
function inAnyJson(secret: string): RegExp {
  const characters = [...secret].filter((character) => character !== '\\');
  // Of backslashes alone nothing is left that could be looked for.
  if (characters.length < MIN_LENGTH) return /(?!)/;
  const forms = characters.slice(0, MAX_PATTERN).map((character) => {
    const hex = character.charCodeAt(0).toString(16).padStart(4, '0');
    return `(?:${character.replace(/\W/, '\\$&')}|u${hex.replace(/[a-f]/g, (digit) => `[${digit}${digit.toUpperCase()}]`)})`;
  });
  return new RegExp(`${forms.join('\\\\*')}${characters.length > MAX_PATTERN ? '\\S*' : ''}`, 'g');
}
