/** Selectors over metadata, as kubectl's `-l`, and the order of lists. Both sides use them: the daemon, and the CLI for a server that has none. */
import type { Sort } from './api.ts';
import { VregError } from './errors.ts';
import type { Vm } from './vm.ts';

/** Terms of one selector: more than anybody writes by hand, and a moment's work for each of many VMs. */
const MAX_TERMS = 32;
/** UTF-16 units of a term that its refusal repeats: enough to find it, and as of other values that are refused. */
const MAX_SHOWN = 60;

type Selectable = Pick<Vm, 'metadata'>;

/**
 * Reads `key=value`, `key!=value`, `key` (is there) and `!key` (is not), joined by commas. Values are compared as text.
 * @returns a predicate that every term must hold for
 * @throws VregError INVALID naming the term
 */
export function parseSelector(text: string): (vm: Selectable) => boolean {
  const words = text.split(',');
  if (words.length > MAX_TERMS) {
    throw new VregError('INVALID', `selector: ${words.length} terms given, at most ${MAX_TERMS}`, {
      field: 'selector',
    });
  }
  const terms = words.map((term) => parseTerm(term.trim()));
  return ({ metadata = {} }) => {
    const texts = new Texts(metadata);
    return terms.every((holds) => holds(metadata, texts));
  };
}

/** What the values of a metadata are as text. A large one is written out once, however many terms ask for it. */
class Texts {
  readonly #metadata: Record<string, unknown>;
  readonly #made = new Map<string, string>();

  constructor(metadata: Record<string, unknown>) {
    this.#metadata = metadata;
  }

  of(key: string): string {
    const made = this.#made.get(key);
    if (made !== undefined) return made;
    const text = JSON.stringify(this.#metadata[key]);
    this.#made.set(key, text);
    return text;
  }
}

function parseTerm(term: string): (metadata: Record<string, unknown>, texts: Texts) => boolean {
  // Blanks before a value are cut off below: a pattern that looks for them would try each of many again, at each newline.
  const [, not, key, operator, rest = ''] = /^(!?)([^=!,\s]+)(?:\s*(==?|!=)(.*))?$/s.exec(term) ?? [];
  const value = rest.trimStart();
  if (key === undefined || (not && operator)) {
    const shown = term.length > MAX_SHOWN ? `${term.slice(0, MAX_SHOWN)}…` : term;
    throw new VregError('INVALID', `selector: "${shown}" is not key=value, key!=value, key or !key`, {
      field: 'selector',
      hint: 'for example: task=billing,env!=prod',
    });
  }
  const has = (metadata: Record<string, unknown>) => Object.hasOwn(metadata, key);
  if (operator === undefined) return (metadata) => has(metadata) !== (not === '!');
  const equals = (metadata: Record<string, unknown>, texts: Texts) => {
    if (!has(metadata)) return false;
    const found = metadata[key];
    if (typeof found === 'string') return found === value;
    // Of what is no text, its JSON counts; a large object is not written out only to see that it is none.
    if (typeof found === 'object' && found !== null && !/^[[{]/.test(value)) return false;
    return texts.of(key) === value;
  };
  return operator === '!=' ? (metadata, texts) => !equals(metadata, texts) : equals;
}

type Sortable = Pick<Vm, 'id' | 'name' | 'role'> & { lastSeen: string };

/** @returns a comparison; undefined for the order in which lists come anyway */
export function comparison(sort: Sort): ((a: Sortable, b: Sortable) => number) | undefined {
  if (sort === 'registered') return undefined;
  if (sort === 'seen') return (a, b) => compare(b.lastSeen, a.lastSeen);
  return (a, b) => compare(a[sort], b[sort]);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
