/**
 * Makes untrusted text safe to print and to log: replaces control characters and masks secrets. The CLI, the client and the
 * daemon use it.
 */
import { TOKEN_TEXT } from './token.ts';

/** The text that replaces a secret. */
const MASK = '***';

/** DEL, C1 controls (which terminals also obey), line separators, and characters that change the writing direction. */
const INVISIBLE = /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/** C0 and C1 controls and DEL, which no field of an entry may contain. */
const CONTROLS = /[\u0000-\u001f\u007f-\u009f]/;

export function hasControls(text: string): boolean {
  return CONTROLS.test(text);
}

/** Replaces every character that could move the cursor, end a line or open another column. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u001f]/g, '\ufffd').replace(INVISIBLE, '\ufffd');
}

/**
 * Same as {@link printable} for JSON, but escapes the characters, so values stay the same. `JSON.stringify` already escapes
 * U+0000 to U+001F.
 */
export function escapeControls(json: string): string {
  return json.replace(INVISIBLE, (character) => `\\u${hexOf(character).padStart(4, '0')}`);
}

const TOKENS = new RegExp(TOKEN_TEXT, 'g');

/** Masks vreg tokens: a user may paste one where a name, an id or a file is expected. */
export function maskTokens(text: string): string {
  return text.replace(TOKENS, `vreg_${MASK}`);
}

/**
 * The reason why a text is not a valid registry URL: `secret` (it contains a user or a password), `query` (it has a query or a
 * fragment) or `form` (it is not an http, https or unix URL). Undefined if the URL is valid.
 */
export type UrlFault = 'secret' | 'query' | 'form';

export function registryUrlFault(text: string): UrlFault | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // The path of a socket may contain an @, for example /run/user@1000; the path of a web server writes it as %40.
  const isPath = url?.protocol === 'unix:' && url.pathname.startsWith('/') && !url.username && !url.password;
  if (text.includes('@') && !isPath) return 'secret';
  if (/[?#]/.test(text)) return 'query';
  return url && ['http:', 'https:', 'unix:'].includes(url.protocol) ? undefined : 'form';
}

/** The URLs in the value of a setting: several are separated by commas. */
export function registryUrls(text: string): string[] {
  return text.split(',').map((url) => url.trim());
}

/** Masks each URL of a list as {@link maskRegistryUrl}. */
export function maskRegistryUrls(text: string): string {
  // A password may contain a comma, so only a comma before a scheme is certainly none of its characters.
  const urls = text.split(/,\s*(?=(?:https?|unix):)/i);
  return urls.map(maskRegistryUrl).join(',');
}

/** Masks the parts of a registry's URL that may be secret: user, password, query and fragment. */
export function maskRegistryUrl(text: string): string {
  const fault = registryUrlFault(text);
  if (fault !== 'secret' && fault !== 'query') return text;
  const query = text.search(/[?#]/);
  if (fault === 'query') return `${text.slice(0, query + 1)}${MASK}`;
  const [scheme = ''] = /^[a-z]+:\/\//i.exec(text) ?? [];
  // A password may contain any delimiter, so only the text after the last @ is certainly not part of it.
  return query < 0 ? `${scheme}${MASK}@${text.slice(text.lastIndexOf('@') + 1)}` : `${scheme}${MASK}`;
}

/** Masks user and password of every URL in a text. Runs in linear time. */
export function maskUrlUsers(text: string): string {
  return text.replace(/(?<=(?<!\/)\/\/)(?!\/)[^\s"]{0,1000}@/g, `${MASK}@`);
}

/** Masks the invalid value of a setting if it may be a URL with a password, given to the wrong setting. */
export function maskValue(text: string): string {
  return text.includes('@') ? MASK : text;
}

/** Masks an unknown name if it may be a URL with a password. A name may contain an @, but not after a `:` or a `/`. */
export function maskName(text: string): string {
  return /[:/].*@/s.test(text) ? MASK : text;
}

/** Names of query parameters whose values are secrets in other systems. */
const SECRET_PARAMETERS = /token|secret|pass|pwd|auth|key|bearer|jwt|cred|session|^sig|^pw$/i;
/** Percent-encodings of unreserved characters (RFC 3986, 2.3), which tokens and parameter names consist of. */
const ENCODED_UNRESERVED = /%(2d|3\d|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])/gi;

/**
 * Masks the secrets in a request target: tokens, and the values of query parameters whose names suggest a secret. First decodes
 * unreserved characters, so that encoding cannot hide a secret (RFC 3986, 6.2.2.2). Runs in linear time.
 */
export function maskRequestTarget(target: string): string {
  const plain = maskTokens(
    target.replace(ENCODED_UNRESERVED, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
  );
  const at = plain.indexOf('?');
  if (at < 0) return plain;
  const query = plain.slice(at + 1).split('&');
  return `${plain.slice(0, at)}?${query.map(maskParameter).join('&')}`;
}

function maskParameter(pair: string): string {
  const end = pair.indexOf('=');
  return end >= 0 && SECRET_PARAMETERS.test(pair.slice(0, end)) ? `${pair.slice(0, end)}=${MASK}` : pair;
}

/** Minimum length of a secret to mask. Masking shorter ones would make most texts unreadable. */
const MIN_SECRET = 6;
/**
 * Maximum number of leading characters of a secret to compile into a regular expression, whose length V8 limits. The rest of
 * the word is masked with them.
 */
const MAX_PATTERN = 1024;
/**
 * Backslashes, plain or percent-encoded once or twice. JSON within JSON may insert any number of them between two characters.
 */
const ESCAPES = '(?:\\\\|%(?:25)?5[cC])*';

/**
 * Masks known secrets: those of the client, which a server or a proxy may echo, and those of the daemon, which a request may
 * contain. Finds a secret in plain form, escaped in JSON (also in JSON within JSON), and percent-encoded in any way.
 */
export class SecretMask {
  /** Longest first, so that a secret that begins with another one is masked completely. */
  #secrets: readonly { secret: string; json: string; encoded: RegExp | undefined }[] = [];

  /** Adds a secret to mask. Ignores secrets of fewer than six characters. */
  add(secret: string): void {
    if (secret.length < MIN_SECRET || this.#secrets.some((known) => known.secret === secret)) return;
    this.#secrets = [...this.#secrets, { secret, json: jsonOf(secret), encoded: encodedPattern(secret) }].sort(
      (a, b) => b.secret.length - a.secret.length,
    );
  }

  /** Masks the secrets in a text. Runs in linear time. */
  mask(text: string): string {
    let masked = text;
    for (const { secret, json, encoded } of this.#secrets) {
      for (const form of [secret, json]) if (masked.includes(form)) masked = masked.replaceAll(form, MASK);
      if (encoded && /[\\%]/.test(masked)) masked = masked.replace(encoded, MASK);
    }
    return masked;
  }

  /** Masks each string at the top level of an object, and in arrays there, for headers and parsed error bodies. */
  maskFields<T extends Readonly<Record<string, unknown>>>(fields: T): T {
    const masked = (value: unknown): unknown => {
      if (typeof value === 'string') return this.mask(value);
      return Array.isArray(value) ? value.map(masked) : value;
    };
    return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, masked(value)])) as T;
  }
}

function encodedPattern(secret: string): RegExp | undefined {
  const characters = [...withoutEscapes(secret)];
  if (characters.length < MIN_SECRET) return undefined;
  const forms = characters.slice(0, MAX_PATTERN).map(characterForms);
  const rest = characters.length > MAX_PATTERN ? '(?:\\\\.|[^\\s"\\\\])*' : '';
  return new RegExp(`${forms.join(ESCAPES)}${rest}`, 'g');
}

/**
 * Removes backslashes from a secret, because ESCAPES already matches them. If the pattern contained them twice, a text with n
 * backslashes could match in exponentially many ways.
 */
function withoutEscapes(secret: string): string {
  const rest = secret.replace(/\\|%(?:25)?5c/gi, '');
  // Removing one can create another, as in `%5%5cc`.
  return rest === secret ? secret : withoutEscapes(rest);
}

/** The forms of a character: plain, after a JSON backslash, as JSON `\uXXXX`, and percent-encoded (UTF-8, either case). */
function characterForms(character: string): string {
  const bytes = [...Buffer.from(character)].map((byte) => `%${eitherCase(byte.toString(16).padStart(2, '0'))}`);
  const plain = jsonOf(character).replace(/^\\/, '');
  const units = character.split('').map((unit) => `u${eitherCase(hexOf(unit).padStart(4, '0'))}`);
  return `(?:${bytes.join('')}|${plain.replace(/^[\^$.*+?()[\]{}|/-]$/, '\\$&')}|${units.join(ESCAPES)})`;
}

function jsonOf(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}

function hexOf(character: string): string {
  return character.charCodeAt(0).toString(16);
}

function eitherCase(hex: string): string {
  return hex.replace(/[a-f]/g, (digit) => `[${digit}${digit.toUpperCase()}]`);
}
