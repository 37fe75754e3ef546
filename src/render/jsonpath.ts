/**
 * Evaluates `-o jsonpath=…` in the dialect of kubectl: text with `{.path}`, `{range .items[*]}…{end}` and `{"text"}`. A path
 * without braces prints each value on its own line. The library implements RFC 9535; this module parses the template and
 * translates its paths. In a list, `.items` is the list itself.
 */
import type { query } from 'jsonpath-rfc9535';
import { hostBetween } from '../protocol/address.ts';
import { VregError } from '../protocol/errors.ts';
import { asText } from './escape.ts';

/** Characters before a host that are read to find `//user@`: far more than a user name has. */
const MAX_USER = 256;

/** Characters of a field name without quotes. A backslash allows any other character, for example `app\.kubernetes\.io/name`. */
const NAME = /(?:\\.|[^\s.,[\](){}$@"'|&=!<>*?;\\+])+/y;

/** A path in a filter that consists of fields and indexes. */
const OPERAND = new RegExp(
  String.raw`[@$](?:\s*\.${NAME.source}|\s*\[\s*(?:-?\d+|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')\s*\])*`,
  'y',
);

type Query = typeof query;

/** A parsed path. */
interface Path {
  /** In the syntax of RFC 9535. */
  text: string;
  /** `$.x`: starts at the whole data, also inside of a range. */
  isAbsolute: boolean;
  /** The first field is `items`. */
  startsWithItems: boolean;
  /** The fields and indexes of a path that has nothing else; it is evaluated without the library. */
  steps: readonly (string | number)[] | undefined;
  /** The path ends at an address, which gets brackets in a URL if it is an IPv6 address. */
  isAddress: boolean;
}

type TemplateNode =
  | { kind: 'text'; text: string }
  | { kind: 'path'; path: Path; before: string; after: string }
  | { kind: 'range'; path: Path; body: TemplateNode[] };

export interface JsonPathResult {
  text: string;
  /** False if the expression has paths and none of them matched. */
  isMatch: boolean;
  /** A path may select several values, as `[*]` does, so no value is a valid result of it. */
  selectsMany: boolean;
}

/**
 * @param data an array is a list of entries
 * @throws VregError USAGE with the position of the first construct that is invalid or not supported
 */
export async function evaluateJsonPath(expression: string, data: unknown): Promise<JsonPathResult> {
  const { query } = await import('jsonpath-rfc9535');
  const parser = new Parser(expression, query);
  const root = expression.includes('{') ? parser.template() : parser.onlyPath();
  const evaluation = new Evaluation(query, data);
  const text = Array.isArray(root)
    ? evaluation.render(root, data)
    : evaluation.valuesOf(root, data).map(asText).join('\n');
  const { isMatch, selectsMany } = evaluation;
  return { text, isMatch, selectsMany };
}

class Evaluation {
  readonly #query: Query;
  readonly #root: unknown;
  #hasPath = false;
  #hasMatched = false;
  selectsMany = false;

  constructor(query: Query, root: unknown) {
    this.#query = query;
    this.#root = root;
  }

  get isMatch(): boolean {
    return this.#hasMatched || !this.#hasPath;
  }

  render(nodes: readonly TemplateNode[], current: unknown): string {
    return nodes
      .map((node) => {
        if (node.kind === 'text') return node.text;
        const values = this.valuesOf(node.path, current);
        if (node.kind === 'range') return values.map((value) => this.render(node.body, value)).join('');
        const { path, before, after } = node;
        return values.map((value) => hostBetween(before, asText(value), after, path.isAddress)).join(' ');
      })
      .join('');
  }

  valuesOf(path: Path, current: unknown): unknown[] {
    const start = path.isAbsolute ? this.#root : current;
    const isList = start === this.#root && Array.isArray(start) && path.startsWithItems;
    const from = isList ? { items: start } : start;
    const values = path.steps ? follow(path.steps, from) : (this.#query(from as never, path.text) as unknown[]);
    this.#hasPath = true;
    this.selectsMany ||= path.steps === undefined;
    this.#hasMatched ||= values.length > 0;
    return values;
  }
}

/** Sets the texts before and after each path, from which URLs and ports are recognized. */
function addContext(nodes: readonly TemplateNode[]): void {
  for (const [index, node] of nodes.entries()) {
    if (node.kind === 'range') addContext(node.body);
    if (node.kind !== 'path') continue;
    node.before = textOf(nodes.slice(0, index)).slice(-MAX_USER);
    node.after = textOf(nodes.slice(index + 1, index + 2));
  }
}

/** The text of nodes, with a letter for each value. */
function textOf(nodes: readonly TemplateNode[]): string {
  return nodes.map((node) => (node.kind === 'text' ? node.text : 'x')).join('');
}

function follow(steps: readonly (string | number)[], from: unknown): unknown[] {
  let value = from;
  for (const step of steps) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) !== (typeof step === 'number')) return [];
    const key = typeof step === 'number' && step < 0 ? (value as unknown[]).length + step : step;
    if (!Object.hasOwn(value, key)) return [];
    value = (value as Record<string | number, unknown>)[key];
    if (value === undefined) return [];
  }
  return [value];
}

/** Parses an expression. Positions in errors count from 1. */
class Parser {
  readonly #text: string;
  readonly #query: Query;
  #at = 0;

  constructor(text: string, query: Query) {
    this.#text = text;
    this.#query = query;
  }

  /** An expression without braces. */
  onlyPath(): Path {
    const path = this.#path();
    if (this.#at < this.#text.length) throw this.#unexpected();
    return path;
  }

  template(): TemplateNode[] {
    const root: TemplateNode[] = [];
    const ranges: { body: TemplateNode[]; at: number }[] = [];
    const body = () => ranges.at(-1)?.body ?? root;
    while (this.#at < this.#text.length) {
      const open = this.#text.indexOf('{', this.#at);
      const text = this.#text.slice(this.#at, open < 0 ? undefined : open);
      if (text !== '') body().push({ kind: 'text', text: text.replaceAll('\\n', '\n').replaceAll('\\t', '\t') });
      if (open < 0) break;
      this.#at = open + 1;
      this.#skipBlanks();
      const quoted = this.#match(/"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'/y);
      if (quoted) body().push({ kind: 'text', text: resolveEscapes(quoted[1] ?? quoted[2] ?? '') });
      else if (this.#match(/end(?=\s*\})/y)) {
        if (!ranges.pop()) throw this.#error('{end} without {range}', open);
      } else if (this.#match(/range(?![\w-])/y)) {
        const range: TemplateNode = { kind: 'range', path: this.#path(), body: [] };
        body().push(range);
        ranges.push({ body: range.body, at: open });
      } else body().push({ kind: 'path', path: this.#path(), before: '', after: '' });
      this.#skipBlanks();
      if (!this.#match(/\}/y)) throw this.#unexpected();
    }
    const unclosed = ranges.pop();
    if (unclosed) throw this.#error('{range} without {end}', unclosed.at);
    addContext(root);
    return root;
  }

  /** Parses a path, up to a closing brace or the end, and translates it. Leaves blanks after it to the caller. */
  #path(): Path {
    this.#skipBlanks();
    const translated = new Translation();
    const isAbsolute = this.#text[this.#at] === '$';
    const steps: (string | number | undefined)[] = [];
    const from = this.#at;
    translated.add('$', this.#at);
    if (this.#match(/[$@]/y) === undefined) {
      const name = this.#name(translated);
      if (name !== undefined) steps.push(name);
    }
    while (this.#at < this.#text.length) {
      const at = this.#at;
      if (this.#match(/\.\./y)) {
        translated.add('..', at);
        steps.push(undefined);
        // The field of `..name`; `..*` and `..[` follow as they are.
        if (this.#name(translated) === undefined && !/[*[]/.test(this.#text[this.#at] ?? '')) throw this.#unexpected();
        if (this.#match(/\*/y)) translated.add('*', this.#at - 1);
      } else if (this.#match(/\.(?=\[)/y)) {
        // `.[0]` is `[0]`.
      } else if (this.#match(/\.\*/y)) {
        translated.add('.*', at);
        steps.push(undefined);
      } else if (this.#match(/\./y)) {
        const name = this.#name(translated);
        if (name !== undefined) steps.push(name);
        // `{.}` is the value itself.
        else if (steps.length > 0 || at !== from || /[^\s}]/.test(this.#text[this.#at] ?? '')) throw this.#unexpected();
      } else if (this.#text[at] === '[') steps.push(this.#brackets(translated));
      else break;
    }
    if (this.#at === from) throw this.#unexpected();
    try {
      this.#query({}, translated.text);
    } catch (cause) {
      const { location } = cause as { location?: { start: { offset: number } } };
      if (location) this.#at = translated.sourceOf(location.start.offset);
      throw location ? this.#unexpected() : this.#error((cause as Error).message, from);
    }
    const isSimple = steps.every((step) => step !== undefined);
    return {
      text: translated.text,
      isAbsolute,
      startsWithItems: steps[0] === 'items',
      steps: isSimple ? (steps as (string | number)[]) : undefined,
      isAddress: steps.at(-1) === 'address',
    };
  }

  /** A field name without quotes, which RFC 9535 allows only for letters, digits and underscores. */
  #name(translated: Translation): string | undefined {
    const at = this.#at;
    const [raw] = this.#match(NAME) ?? [];
    if (raw === undefined) return undefined;
    const name = raw.replace(/\\(.)/g, '$1');
    translated.add(`[${JSON.stringify(name)}]`, at);
    return name;
  }

  /** Copies `[…]`, and translates the fields in filters. @returns the field or index, if it consists of one */
  #brackets(translated: Translation): string | number | undefined {
    const from = this.#at;
    let operandEnd: number | undefined;
    for (let depth = 0; this.#at < this.#text.length; ) {
      const at = this.#at;
      if (at === operandEnd) translated.add(')', at);
      const end = this.#comparedIndexEnd();
      if (end !== undefined) {
        translated.add('value(', at);
        operandEnd = end;
      }
      const [token] = this.#match(/"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|=~|[\s\S]/y)!;
      if (token === '=~') throw this.#error('the operator =~ is not supported; use match(@.name, "PATTERN")', at);
      const isField = token === '.' && /^[a-z_\\]/i.test(this.#text.slice(this.#at, this.#at + 1));
      // The second dot of `..name` stays, because RFC 9535 has it before a bracket.
      if (!isField || this.#text[at - 1] === '.') translated.copy(token!, at);
      if (isField) this.#name(translated);
      if (token === '[') depth++;
      if (token === ']' && --depth === 0) return indexOf(this.#text.slice(from + 1, at).trim());
    }
    throw this.#unexpected();
  }

  /**
   * The library compares a path with an index as if it had no value, except in `value(…)`.
   * @returns the end of such a path, if one starts here and a comparison follows or precedes it
   */
  #comparedIndexEnd(): number | undefined {
    OPERAND.lastIndex = this.#at;
    const [operand] = OPERAND.exec(this.#text) ?? [];
    if (operand === undefined || !/\[\s*-?\d/.test(operand)) return undefined;
    const end = this.#at + operand.length;
    const isCompared =
      /^\s*(?:[=!]=|[<>])/.test(this.#text.slice(end)) || /[=<>]\s*$/.test(this.#text.slice(0, this.#at));
    return isCompared ? end : undefined;
  }

  #skipBlanks(): void {
    this.#match(/\s*/y);
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (!found) return undefined;
    this.#at = pattern.lastIndex;
    return found;
  }

  #unexpected(): VregError {
    const character = [...this.#text.slice(this.#at, this.#at + 2)][0];
    return this.#error(character === undefined ? 'unexpected end' : `unexpected "${character}"`, this.#at);
  }

  #error(reason: string, at: number): VregError {
    return new VregError('USAGE', `invalid jsonpath "${this.#text}" at position ${at + 1}: ${reason}`, {
      field: 'output',
      hint: "for example -o jsonpath='{.address}' for one VM, or -o jsonpath='{.items[*].id}' for a list",
    });
  }
}

/** The path in the syntax of RFC 9535, with the position of each part in the expression. */
class Translation {
  text = '';
  readonly #parts: { start: number; source: number; isCopy: boolean }[] = [];

  add(text: string, source: number, isCopy = false): void {
    this.#parts.push({ start: this.text.length, source, isCopy });
    this.text += text;
  }

  copy(text: string, source: number): void {
    this.add(text, source, true);
  }

  /** The position in the expression of an offset in {@link text}. */
  sourceOf(offset: number): number {
    const { start, source, isCopy } = this.#parts.findLast((part) => part.start <= offset)!;
    return isCopy ? source + offset - start : source;
  }
}

/** The field or index of a bracket that consists of one; undefined for any other selector. */
function indexOf(selector: string): string | number | undefined {
  if (/^(0|-?[1-9]\d{0,8})$/.test(selector)) return Number(selector);
  const [, double, single] = /^(?:"([^"\\]*)"|'([^'\\]*)')$/.exec(selector) ?? [];
  return double ?? single;
}

/** Resolves the escapes of a quoted text. */
function resolveEscapes(text: string): string {
  return text.replace(/\\(.)/gs, (_, letter: string) => ({ n: '\n', t: '\t', r: '\r' })[letter] ?? letter);
}
