/**
 * Escapes values for the formats of `vreg render --for`. The context of a value determines how it must be escaped, so each
 * escaper also reads all other output: the text of the template, and the values that it inserts unescaped.
 */
import { isIPv6 } from 'node:net';
import { normalizeAddress } from '../protocol/address.ts';
import { escapeControls } from '../protocol/redact.ts';

export const FORMATS = ['shell', 'nginx', 'json', 'html'] as const;
export type Format = (typeof FORMATS)[number];

/** The reason why a value cannot be written safely; completes "the value of name …". */
export class UnsafeValue extends Error {
  constructor(
    message: string,
    readonly hint = 'correct the entry, or write {{{…}}} to insert the value without escaping',
  ) {
    super(message);
  }
}

export interface Escaper {
  /** Quotes that may stand between a value and the rest of its word. */
  readonly quotes?: RegExp;
  /** Reads text that is written unchanged. */
  read(text: string): void;
  /**
   * @param value null or undefined if the VM has no such field
   * @param next the text that follows, empty at the end; undefined if another value follows
   * @param rest the rest of the template with its tags, except those of sections that begin or end here
   * @throws UnsafeValue
   */
  escape(value: unknown, next: string | undefined, rest: string): string;
}

/** Characters that have no special meaning in any of the formats and need no escaping. */
const PLAIN = /^[A-Za-z0-9._:/@+-]*$/;
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

export function isPlain(text: string): boolean {
  return PLAIN.test(text);
}

/** The text that a template inserts for a value before escaping. */
export function asText(value: unknown): string {
  if (value === null || value === undefined) return '';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** @param format undefined to refuse every value that would need escaping */
export function escaperFor(format: Format | undefined): Escaper {
  switch (format) {
    case undefined:
      return new PlainOnly();
    case 'shell':
      return new ShellEscaper();
    case 'nginx':
      return new NginxEscaper();
    case 'json':
      return new JsonEscaper();
    case 'html':
      return new HtmlEscaper();
  }
}

/** For a file of an unknown format: accepts only values that need no escaping. */
class PlainOnly implements Escaper {
  read(): void {}

  escape(value: unknown): string {
    const text = asText(value);
    // An address may have the brackets of IPv6.
    if (isPlain(text) || normalizeAddress(text) === text) return text;
    throw new UnsafeValue(
      'has characters other than letters, digits and . _ : / @ + -',
      'escape values with --for shell, nginx, json or html, or write {{{…}}} to insert the value without escaping',
    );
  }
}

/** The beginning of a command: of the line, after a pipe or a bracket, or after a word that runs its arguments as a command. */
const COMMAND = String.raw`(?:^|[|&({!]|\b(?:sudo|doas|exec|command|nohup|env|time|then|do|else|if|while|until)\s)\s*(?:\w+=\S*\s+)*(?:\S*/)?`;
/**
 * Commands, options and variables whose values are parsed once more, as code of a shell or of another language. Quotes protect
 * a value from the first parser only. It is matched against a command in which quotes are replaced by spaces.
 */
const SECOND_PARSER = new RegExp(
  [
    String.raw`(?:^|[\s/])(?:eval|trap|alias|ssh|scp|rsync|rsh|watch|parallel|xargs|sed|\w?awk|compgen|crontab)\s`,
    String.raw`${COMMAND}(?:node|nodejs|deno|bun|perl|php|ruby|lua|make|su|tmux|screen|at|batch|complete|bind|mapfile|readarray|ed|ex|vim?|bc|dc|expect)\s`,
    String.raw`\s-\w*[ce]\s`,
    String.raw`${COMMAND}env\s(?:.*\s)?-\w*S`,
    String.raw`\s--[\w-]*(?:command|eval|exec|execute|rsh|split-string|action)[\s=]`,
    // In bash they evaluate subscripts, which may contain a command substitution: let 'a[$(reboot)]'.
    String.raw`(?:^|\s)(?:let|declare|typeset|unset|read)\s`,
    String.raw`(?:^|\s)(?:\[|test|printf|local)\s(?:.*\s)?-\w*[iv]\s`,
    // A shell or a program evaluates these variables later.
    String.raw`(?:^|\s)(?:PS[0-4]|\w*_COMMAND|(?:BASH_)?ENV|LESSOPEN|LESSCLOSE|(?:\w+_)?(?:EDITOR|VISUAL|PAGER|BROWSER|RSH|SSH|ASKPASS))=`,
    // The output of the command is a script: bash <(echo …).
    String.raw`(?:^|[\s/])(?:\.|source|\w*sh)\s[^|]*<\(`,
  ].join('|'),
  's',
);
/** The rest of a command whose output is piped into a program that runs it. */
const PIPED_TO_SHELL =
  /^(?:[^\n]|\\\n)*?\|\s*(?:(?:sudo|doas|exec|command|nohup|env|time)\s+)*(?:\S*\/)?(?:\w*sh|xargs|parallel|at|batch|crontab|python[\d.]*|perl|php|node|ruby|lua|bc|dc|\w*sql\w*)(?:[\s;&|)]|\{\{|$)/;
/** Words without quotes that a shell may take for the number of a file descriptor or for a keyword. */
const SHELL_WORDS = /^(?:\d+|if|then|elif|else|fi|for|in|do|done|while|until|case|esac|select|function|time|coproc)$/;
/** The end of a command whose last word is empty so far or consists of a parameter, which may be empty. */
const PARAMETER = /\$(?:\w*|[@*#?!$-])$/;

/**
 * POSIX shell, and bash. It knows three places: a bare word, a string in double quotes and a string in single quotes. In
 * everything else (substitutions, here-documents, arithmetic, subscripts, patterns in brackets), and in the rest of a script
 * after it, only plain values are written.
 */
class ShellEscaper implements Escaper {
  readonly quotes = /^["'\\]+/;
  #state: 'bare' | 'single' | 'double' | 'comment' | 'unknown' = 'bare';
  /** The word is empty so far, so a value at this point begins it. Quotes and empty values do not change that. */
  #isEmptyWord = true;
  /** A backslash quotes the next character. */
  #isQuoted = false;
  /** The text of the current command up to here, without line continuations; `x` for a value and for a quoted mark. */
  #command = '';
  /** The last character of the command, or a line break before it. */
  #previous = '\n';

  read(text: string): void {
    for (let i = 0; i < text.length; i++) {
      const canExpand = !this.#isQuoted && (this.#state === 'bare' || this.#state === 'double');
      const simple = canExpand ? simpleExpansion(text, i) : undefined;
      if (simple === undefined) this.#step(text[i]!);
      else {
        i += simple.length - 1;
        this.#add('x');
      }
    }
  }

  escape(value: unknown, _next: string | undefined, rest: string): string {
    const text = asText(value);
    if (CONTROLS.test(text)) throw new UnsafeValue('has control characters');
    if (this.#state === 'comment') return text;
    if (text.startsWith('-') && (this.#isEmptyWord || this.#state === 'unknown'))
      throw new UnsafeValue('begins with "-", so a command would take it for a flag');
    if (this.#state !== 'single' && /\$\{?\w*$/.test(this.#command))
      throw new UnsafeValue('would become part of the name of a variable', 'put the name of the variable in braces');
    if (!isPlain(text)) this.#requireQuotes(rest);
    const escaped = this.#quote(text);
    if (text !== '') {
      this.#isEmptyWord = false;
      this.#isQuoted = false;
    }
    if (escaped !== '') this.#add('x');
    return escaped;
  }

  /** @throws UnsafeValue at a place where quotes do not protect a value */
  #requireQuotes(rest: string): void {
    if (SECOND_PARSER.test(this.#command.replace(/["'\\]/g, ' ')) || PIPED_TO_SHELL.test(rest))
      throw new UnsafeValue('would be parsed by a second shell or another language');
    const isPattern = this.#state === 'bare' && this.#previous === '[';
    if (this.#state === 'unknown' || this.#isQuoted || isPattern)
      throw new UnsafeValue('needs quotes, which this place in the script does not allow');
  }

  #quote(text: string): string {
    if (this.#state === 'single') return text.replaceAll("'", "'\\''");
    if (this.#state === 'double') return text.replace(/["\\$`]/g, '\\$&');
    if (this.#state === 'unknown' || this.#isQuoted) return text;
    // Without quotes, an empty value would shift the arguments after it.
    const needsQuotes = text === '' || !isPlain(text) || SHELL_WORDS.test(text);
    return needsQuotes ? `'${text.replaceAll("'", "'\\''")}'` : text;
  }

  #step(character: string): void {
    if (this.#state === 'comment') {
      if (character === '\n') this.#beginCommand();
    } else if (this.#state === 'unknown') this.#command = (this.#command + character).slice(-256);
    else if (this.#isQuoted) this.#stepQuoted(character);
    else if (character === '\\' && this.#state !== 'single') this.#isQuoted = true;
    else if (this.#state === 'bare') this.#stepBare(character);
    else this.#stepInQuotes(character);
  }

  /** A shell removes a backslash before a line break together with the line break. */
  #stepQuoted(character: string): void {
    this.#isQuoted = false;
    if (character !== '\n') this.#addToWord(/[\w/-]/.test(character) ? character : 'x');
  }

  #stepInQuotes(character: string): void {
    const isDouble = this.#state === 'double';
    if (character === (isDouble ? '"' : "'")) {
      this.#state = 'bare';
      this.#add(character);
    } else if (isDouble && (character === '`' || (this.#previous === '$' && /[({[]/.test(character))))
      this.#beginUnknown(character);
    else this.#addToWord(character);
  }

  #stepBare(character: string): void {
    const previous = this.#previous;
    const opensUnknown =
      character === '`' ||
      (/[$?*+@!]/.test(previous) && character === '(') ||
      (previous === '$' && /[{['"]/.test(character)) ||
      (/[<(]/.test(previous) && character === previous) ||
      // `[` as a command is a word of its own.
      (previous === '[' && !/[ \t]/.test(character)) ||
      (character === '[' && !this.#isEmptyWord) ||
      (character === '#' && /[)<>]/.test(previous));
    if (opensUnknown) this.#beginUnknown(character);
    else if (character === '#' && /[ \t\n;&|(]/.test(previous)) this.#state = 'comment';
    else if (/['"]/.test(character)) {
      this.#state = character === "'" ? 'single' : 'double';
      this.#add(character);
    } else if (/[\n;]/.test(character) || (/[&|]/.test(character) && character === previous)) this.#beginCommand();
    else if (/[\s&|()<>]/.test(character)) {
      this.#isEmptyWord = true;
      this.#add(character);
    } else this.#addToWord(character);
  }

  #add(character: string): void {
    this.#command += character;
    this.#previous = character;
  }

  #addToWord(character: string): void {
    this.#add(character);
    if (this.#isEmptyWord) this.#isEmptyWord = this.#state !== 'single' && PARAMETER.test(this.#command);
  }

  #beginUnknown(character: string): void {
    this.#state = 'unknown';
    this.#add(character);
  }

  #beginCommand(): void {
    this.#state = 'bare';
    this.#isEmptyWord = true;
    this.#command = '';
    this.#previous = '\n';
  }
}

/** Matches `${NAME}`, or a `$(command)` with no quotes, nesting or `case`, so that the first closing bracket always ends it. */
function simpleExpansion(text: string, from: number): string | undefined {
  if (text[from] !== '$') return undefined;
  const [simple] = /^\$(?:\{[A-Za-z_]\w*\}|\([^()'"`\\#<$]*\))/.exec(text.slice(from, from + 256)) ?? [];
  return simple === undefined || /\bcase\b/.test(simple) ? undefined : simple;
}

/** The beginning of a directive with a regular expression, up to the pattern: `location ~ `, `rewrite `. */
const PATTERN_DIRECTIVE = /(?:^|\s)["']?!?~|^\s*rewrite\s/;

/** Directives with a host, whose IPv6 address needs brackets. `allow`, `deny` and `geo` accept none. */
const HOST_DIRECTIVE = /^\s*(?:(?:server|listen|resolver)\s+|resolver\s.*\s|\w+_pass\s+)["']?$|syslog:server=$/;

/** Values that nginx takes for a keyword, also in quotes: of `allow`, `geo`, `map`, `valid_referers` and of flags. */
const NGINX_KEYWORDS = new Set(
  'all default include hostnames volatile none blocked server_names proxy proxy_recursive delete ranges off on'.split(
    ' ',
  ),
);

/** nginx. It has no escape for `$`, and a word that begins with a quote ends with it (ngx_conf_read_token). */
class NginxEscaper implements Escaper {
  #state: 'bare' | 'single' | 'double' | 'comment' | 'unknown' = 'bare';
  #startsWord = true;
  #isQuoted = false;
  #previous = '\n';
  /** The text of the current directive before the next character. */
  #directive = '';

  read(text: string): void {
    // The block that this directive begins contains Lua, whose syntax differs.
    if (/_by_lua/.test(text)) this.#state = 'unknown';
    for (const character of text) this.#step(character);
  }

  escape(value: unknown, next: string | undefined, rest: string): string {
    const given = asText(value);
    const text = isIPv6(given) && HOST_DIRECTIVE.test(this.#directive) ? `[${given}]` : given;
    if (CONTROLS.test(text)) throw new UnsafeValue('has control characters');
    if (text.includes('$')) throw new UnsafeValue('has a "$", which nginx would expand');
    if (/[*\\]/.test(text)) throw new UnsafeValue('has a "*" or a backslash, which nginx may take for a pattern');
    if (this.#startsWord && /^[~=^!]/.test(text))
      throw new UnsafeValue(`begins with "${text[0]}", which nginx may take for an operator`);
    if (this.#state !== 'comment') this.#refuseMeaning(text, rest);
    if (this.#state !== 'comment' && PATTERN_DIRECTIVE.test(this.#directive) && !isPlain(text))
      throw new UnsafeValue('would become part of a regular expression');
    const escaped = this.#quote(text, next);
    if (escaped === '') return escaped;
    this.#startsWord = false;
    this.#isQuoted = false;
    this.#previous = 'x';
    return escaped;
  }

  /** @throws UnsafeValue for a whole word with a meaning of its own, which quotes do not remove */
  #refuseMeaning(text: string, rest: string): void {
    const beginsWord = this.#startsWord || /[\s"']$/.test(this.#directive);
    const endsWord = /^["']?(?:[\s;{]|$)/.test(rest);
    if (beginsWord && endsWord && NGINX_KEYWORDS.has(text.toLowerCase()))
      throw new UnsafeValue(`is "${text}", which nginx takes for a keyword`);
    if (beginsWord && text.startsWith('.')) throw new UnsafeValue('begins with ".", which nginx takes for a wildcard');
    if ((beginsWord || this.#directive.endsWith('//')) && /^unix:/i.test(text))
      throw new UnsafeValue('begins with "unix:", which nginx takes for the path of a socket');
  }

  #quote(text: string, next: string | undefined): string {
    // An address may have the brackets of IPv6, which have no meaning in nginx.
    const isSafe = isPlain(text.replace(/[[\]]/g, ''));
    const isWhole = this.#startsWord && next !== undefined && /^(?:[\s;{]|$)/.test(next);
    if (this.#state === 'comment') return text;
    if (this.#state === 'single' || this.#state === 'double') {
      if (this.#isQuoted && !isSafe) throw new UnsafeValue('follows a backslash');
      return text.replace(this.#state === 'single' ? /'/g : /"/g, '\\$&');
    }
    if (isSafe && !(text === '' && isWhole)) return text;
    if (this.#state === 'unknown' || !isWhole || this.#isQuoted || this.#previous === '$')
      throw new UnsafeValue('needs quotes: write the whole word as "{{…}}" in the template');
    return `"${text.replaceAll('"', '\\"')}"`;
  }

  #step(character: string): void {
    const previous = this.#previous;
    this.#previous = character;
    if (this.#state === 'unknown') return;
    if (this.#state === 'bare' && /[;{}]/.test(character) && previous !== '$') this.#directive = '';
    else if (this.#state !== 'comment') this.#directive += character;
    if (this.#state === 'comment') {
      if (character !== '\n') return;
      this.#state = 'bare';
      this.#startsWord = true;
      return;
    }
    if (this.#isQuoted) {
      this.#isQuoted = false;
      this.#startsWord = false;
      return;
    }
    if (character === '\\') this.#isQuoted = true;
    if (this.#state !== 'bare') {
      if (character === (this.#state === 'single' ? "'" : '"')) this.#state = 'bare';
      this.#startsWord = false;
      return;
    }
    if (this.#startsWord && (character === '"' || character === "'")) {
      this.#state = character === '"' ? 'double' : 'single';
      return;
    }
    if (this.#startsWord && character === '#') this.#state = 'comment';
    else this.#startsWord = /[\s;{}]/.test(character) && !(character === '{' && previous === '$');
  }
}

/**
 * Escapes values for JSON. Outside a string literal, a value is serialized as JSON: text is quoted, and a missing field becomes
 * `null`.
 */
class JsonEscaper implements Escaper {
  #isString = false;
  #isQuoted = false;

  read(text: string): void {
    for (const character of text) {
      if (this.#isQuoted) this.#isQuoted = false;
      else if (character === '"') this.#isString = !this.#isString;
      else this.#isQuoted = this.#isString && character === '\\';
    }
  }

  escape(value: unknown): string {
    if (this.#isQuoted) throw new UnsafeValue('follows a backslash');
    const json = this.#isString ? JSON.stringify(asText(value)).slice(1, -1) : JSON.stringify(value ?? null);
    // Go's encoder does the same, so that the JSON may be part of an HTML page.
    return escapeControls(json).replace(/[<>&]/g, (mark) => `\\u00${mark.charCodeAt(0).toString(16)}`);
  }
}

/** Elements whose content has no character references (HTML, 13.1.2). */
const RAW_ELEMENTS = ['script', 'style', 'xmp', 'iframe', 'noembed', 'noframes', 'noscript', 'plaintext'];
/** Attributes that contain code or a whole document. */
const CODE_ATTRIBUTES = /^(on.*|style|srcdoc)$/;
/** Attributes that contain a URL (HTML, section Indices). */
const URL_ATTRIBUTES =
  /^((xlink:)?href|src|srcset|action|formaction|data|poster|background|ping|cite|manifest|content|values|to|from|by)$/;
/** Schemes of URLs that run code or contain a document. A refresh has a URL after the seconds, an animation has several. */
const CODE_URL = /(?:^|;|url=["']?)(javascript|vbscript|data):/i;
/** Elements whose URL is that of code, or changes all other URLs. */
const CODE_ELEMENTS = /^(script|base|embed|object|link)$/;
const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** HTML text and attributes. */
class HtmlEscaper implements Escaper {
  #state: 'text' | 'comment' | 'raw' | 'tag' | 'attribute' | 'value' | 'bare' | 'single' | 'double' = 'text';
  #element = '';
  #attribute = '';
  /** The value of the current attribute before the next character. */
  #value = '';
  /** The last 16 characters, to recognize `<!--`, `-->` and end tags. */
  #tail = '';

  read(text: string): void {
    for (const character of text) this.#step(character);
  }

  escape(value: unknown): string {
    const text = asText(value);
    if (/[^\P{Cc}\t\n\r]/u.test(text)) throw new UnsafeValue('has control characters');
    const isAttribute = ['value', 'bare', 'single', 'double'].includes(this.#state);
    const isCode = this.#state === 'raw' || (isAttribute && CODE_ATTRIBUTES.test(this.#attribute));
    if (isCode && !isPlain(text)) throw new UnsafeValue('is not safe inside code');
    // The names decide how the browser reads what follows, for example as code.
    const isName = this.#state === 'tag' || this.#state === 'attribute';
    if (isName || (this.#state === 'text' && /<\/?$/.test(this.#tail)))
      throw new UnsafeValue('is not safe as the name of a tag or attribute');
    if (isAttribute && URL_ATTRIBUTES.test(this.#attribute)) this.#refuseCode(text);
    this.#value += text;
    // Without quotes, the next attribute would become the value.
    const escaped = this.#state === 'value' && text === '' ? '""' : this.#encode(text);
    if (this.#state === 'value' && text !== '') this.#state = 'bare';
    if (escaped !== '') this.#tail = 'x';
    return escaped;
  }

  /** @throws UnsafeValue for a value that makes a URL run or load code */
  #refuseCode(text: string): void {
    const url = (this.#value + text).replace(/[\s\p{Cc}]/gu, '');
    if (CODE_URL.test(url)) throw new UnsafeValue('is a URL that may run code');
    // A browser treats a backslash in a URL like a slash.
    const choosesHost = /^(?:[a-z][a-z0-9+.-]*:|[/\\]{2})/i.test(url) && !/[/\\]{2}/.test(this.#value);
    if (CODE_ELEMENTS.test(this.#element) && choosesHost)
      throw new UnsafeValue('is part of the URL of a script or of another resource that may run code');
  }

  #encode(text: string): string {
    const isBare = this.#state === 'value' || this.#state === 'bare';
    return text.replace(
      isBare ? /[^\p{L}\p{N}._:/@+-]/gu : /[&<>"'`]/g,
      (mark) => ENTITIES[mark] ?? `&#${mark.codePointAt(0)};`,
    );
  }

  #step(character: string): void {
    this.#tail = (this.#tail + character).slice(-16);
    switch (this.#state) {
      case 'text':
        if (this.#tail.endsWith('<!--')) this.#state = 'comment';
        else if (/<[a-z/]$/i.test(this.#tail)) this.#beginTag(character);
        return;
      case 'comment':
        if (/--!?>$/.test(this.#tail)) this.#state = 'text';
        return;
      case 'raw':
        if (this.#tail.toLowerCase().endsWith(`</${this.#element}`)) this.#beginTag('/');
        return;
      case 'single':
      case 'double':
        if (character === (this.#state === 'single' ? "'" : '"')) this.#beginAttribute();
        else this.#value += character;
        return;
      default:
        this.#stepInTag(character);
    }
  }

  #beginTag(first: string): void {
    this.#state = 'tag';
    this.#element = first.toLowerCase();
  }

  #stepInTag(character: string): void {
    if (character === '>') this.#endTag();
    else if (this.#state === 'tag') {
      if (/[\s/]/.test(character) && this.#element !== '/') this.#beginAttribute();
      else this.#element += character.toLowerCase();
    } else if (this.#state === 'attribute') {
      if (character === '=' && this.#attribute !== '') this.#beginValue();
      else if (/[\s/]/.test(character)) this.#attribute += ' ';
      // A name after a space is another attribute.
      else this.#attribute = (this.#attribute.endsWith(' ') ? '' : this.#attribute) + character.toLowerCase();
    } else if (this.#state === 'value' && /["']/.test(character)) this.#state = character === '"' ? 'double' : 'single';
    else if (/\s/.test(character)) {
      if (this.#state === 'bare') this.#beginAttribute();
    } else {
      this.#state = 'bare';
      this.#value += character;
    }
  }

  #beginAttribute(): void {
    this.#state = 'attribute';
    this.#attribute = '';
  }

  #beginValue(): void {
    this.#state = 'value';
    this.#attribute = this.#attribute.trim();
    this.#value = '';
  }

  #endTag(): void {
    this.#state = RAW_ELEMENTS.includes(this.#element) ? 'raw' : 'text';
    this.#attribute = '';
  }
}
