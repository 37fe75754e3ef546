/** Renders mustache templates: escapes values where they stand, and writes addresses so that a port can follow. */
import Mustache from 'mustache';
import { hostBetween } from '../protocol/address.ts';
import { VregError } from '../protocol/errors.ts';
import { type Escaper, UnsafeValue } from './escape.ts';

type Context = InstanceType<typeof Mustache.Context>;

/** `[kind, text or name, start, end, tokens of a section]`, as mustache parses a template. */
type Token = string[];

/** The end of a token's tag in the template, as an index. */
const END = 3;
/** Opening and closing tags of sections, which write nothing. */
const SECTION_TAGS = /^(?:\{\{[#^/][^}]*\}\})+/;

/** Characters before a host that are read to find `//user@`: far more than a user name has. */
const MAX_USER = 256;

/**
 * Makes the writer of one output.
 * @param where source of the template, for errors
 */
export function createWriter(escaper: Escaper, where: string): InstanceType<typeof Mustache.Writer> {
  return new TemplateWriter(escaper, where);
}

class TemplateWriter extends Mustache.Writer {
  readonly #escaper: Escaper;
  readonly #where: string;
  #depth = 0;
  /** The text after the current tag; undefined if another tag follows. */
  #next: string | undefined;
  /** The rest of the template after the current tag and the section tags that follow it. */
  #rest = '';
  /** The end of the output. */
  #tail = '';

  constructor(escaper: Escaper, where: string) {
    super();
    this.#escaper = escaper;
    this.#where = where;
  }

  override renderTokens(
    tokens: Token[],
    ...more: Rest<Parameters<InstanceType<typeof Mustache.Writer>['renderTokens']>>
  ) {
    this.#depth++;
    let output = '';
    const [, , template = ''] = more;
    for (const [index, token] of tokens.entries()) {
      this.#rest = template.slice(Number(token[END])).replace(SECTION_TAGS, '');
      const [kind, text] = tokens[index + 1] ?? (this.#depth === 1 ? ['text', ''] : []);
      this.#next = kind === 'text' ? text : undefined;
      output += super.renderTokens([token], ...more);
    }
    this.#depth--;
    return output;
  }

  override rawValue(token: Token): string {
    return this.#write(token[1]!);
  }

  override unescapedValue([, name = '']: Token, context: Context): string {
    return this.#write(String(context.lookup(name) ?? ''));
  }

  override escapedValue([, name = '']: Token, context: Context): string {
    try {
      const escaped = this.#escaper.escape(this.#asHost(name, context.lookup(name)), this.#next, this.#rest);
      this.#tail = (this.#tail + escaped).slice(-MAX_USER);
      return escaped;
    } catch (error) {
      if (!(error instanceof UnsafeValue)) throw error;
      throw this.#refusal(name, vmOf(context, name), error);
    }
  }

  #write(text: string): string {
    this.#escaper.read(text);
    this.#tail = (this.#tail + text).slice(-MAX_USER);
    return text;
  }

  #asHost(name: string, value: unknown): unknown {
    if (typeof value !== 'string') return value;
    // A port may follow in a section of its own, or after the end of one.
    const rest = this.#rest.replace(this.#escaper.quotes ?? '', '');
    return hostBetween(this.#tail, value, rest.startsWith('{{') ? '' : rest, /(^|\.)address$/.test(name));
  }

  #refusal(name: string, id: string | undefined, { message, hint }: UnsafeValue): VregError {
    const subject = id === undefined ? '' : `VM "${id}": `;
    return new VregError('INVALID', `${this.#where}: ${subject}the value of ${name} ${message}`, {
      field: name,
      hint,
    });
  }
}

type Rest<T extends unknown[]> = T extends [unknown, ...infer R] ? R : never;

/** The id of the VM to which a value belongs: the VM whose section contains the tag, or a part of a dotted name. */
function vmOf(context: Context, name: string): string | undefined {
  for (let at: Context | undefined = context; at; at = at.parent) {
    const id = idOf(at.view);
    if (id !== undefined) return id;
  }
  const parts = name.split('.');
  const owners = parts.slice(1).map((_, index) => idOf(context.lookup(parts.slice(0, index + 1).join('.'))));
  return owners.find((id) => id !== undefined);
}

function idOf(view: unknown): string | undefined {
  const { id, address } = (view ?? {}) as { id?: unknown; address?: unknown };
  return typeof id === 'string' && typeof address === 'string' ? id : undefined;
}
