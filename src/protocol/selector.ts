/**
 * Metadata selectors like kubectl's `-l`, and sort orders. The daemon applies them, or the CLI if the server does not support
 * them.
 */
import type { Sort } from './api.ts';
import { VregError } from './errors.ts';
import type { Vm } from './vm.ts';

/** Maximum number of terms in a selector: more than users write by hand, and fast to evaluate for 100,000 VMs. */
const MAX_TERMS = 32;
/** Maximum number of UTF-16 units that an error quotes from an invalid term, as for other invalid values. */
const MAX_QUOTED = 60;

type Selectable = Pick<Vm, 'metadata'>;

/**
 * Parses comma-separated terms: `key=value`, `key!=value`, `key` (present) and `!key` (absent). Values are compared as text.
 * @returns a predicate that is true if all terms match
 * @throws VregError INVALID naming the term
 */
export function parseSelector(text: string): (vm: Selectable) => boolean {
  const words = text.split(',');
  if (words.length > MAX_TERMS) {
    throw new VregError('INVALID', `too many selector terms: ${words.length} (limit ${MAX_TERMS})`, {
      field: 'selector',
    });
  }
  const terms = words.map((term) => parseTerm(term.trim()));
  return ({ metadata = {} }) => {
    const texts = new SerializedValues(metadata);
    return terms.every((holds) => holds(metadata, texts));
  };
}

/** The metadata values as JSON text. Each value is serialized only once, even if several terms compare it. */
class SerializedValues {
  readonly #metadata: Record<string, unknown>;
  readonly #cache = new Map<string, string>();

  constructor(metadata: Record<string, unknown>) {
    this.#metadata = metadata;
  }

  of(key: string): string {
    const cached = this.#cache.get(key);
    if (cached !== undefined) return cached;
    const text = JSON.stringify(this.#metadata[key]);
    this.#cache.set(key, text);
    return text;
  }
}

function parseTerm(term: string): (metadata: Record<string, unknown>, texts: SerializedValues) => boolean {
  // The pattern does not match blanks before the value, because that would take quadratic time for long runs of blanks.
  const [, not, key, operator, rest = ''] = /^(!?)([^=!,\s]+)(?:\s*(==?|!=)(.*))?$/s.exec(term) ?? [];
  const value = rest.trimStart();
  if (key === undefined || (not && operator)) {
    const quoted = term.length > MAX_QUOTED ? `${term.slice(0, MAX_QUOTED)}…` : term;
    throw new VregError('INVALID', `invalid selector "${quoted}": a term is key=value, key!=value, key or !key`, {
      field: 'selector',
      hint: 'for example: task=billing,env!=prod',
    });
  }
  const has = (metadata: Record<string, unknown>) => Object.hasOwn(metadata, key);
  if (operator === undefined) return (metadata) => has(metadata) !== (not === '!');
  const equals = (metadata: Record<string, unknown>, texts: SerializedValues) => {
    if (!has(metadata)) return false;
    const found = metadata[key];
    if (typeof found === 'string') return found === value;
    // Compare other values as JSON. Do not serialize an object if the term cannot be one.
    if (typeof found === 'object' && found !== null && !/^[[{]/.test(value)) return false;
    return texts.of(key) === value;
  };
  return operator === '!=' ? (metadata, texts) => !equals(metadata, texts) : equals;
}

type Sortable = Pick<Vm, 'id' | 'name' | 'role'> & { lastSeen: string };

/** @returns a comparison function; undefined for `registered`, the default order of lists */
export function comparison(sort: Sort): ((a: Sortable, b: Sortable) => number) | undefined {
  if (sort === 'registered') return undefined;
  if (sort === 'seen') return (a, b) => compare(b.lastSeen, a.lastSeen);
  return (a, b) => compare(a[sort], b[sort]);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
