/**
 * The filter line of the table, such as `role:worker live:stale -task:x seen>5m`. A VM must match all terms. A term with a minus
 * sign excludes VMs. Any key that is not a field is a key of the metadata. Pure, so that Node's tests run it.
 */
import { durationOf } from '../protocol/duration.ts';
import { LIVENESS, type Liveness } from '../protocol/liveness.ts';
import { ROLES, STATUSES, type Vm } from '../protocol/vm.ts';

/** The part of a row of the table that filters read. */
export interface Filterable {
  vm: Vm;
  state: Liveness;
  /** Last sign of life, milliseconds since the epoch. */
  seen: number;
}

export interface FleetFilter {
  /** @param now milliseconds since the epoch, by the clock of the registry */
  matches(row: Filterable, now: number): boolean;
  /** The result changes as time passes. */
  usesTime: boolean;
  /** The `vreg` command with the same answer. */
  command: string;
}

/** An error in a filter, and its position in UTF-16 units. */
export class FilterError extends Error {
  readonly at: number;
  readonly length: number;

  constructor(message: string, at: number, length: number) {
    super(message);
    this.at = at;
    this.length = length;
  }
}

/** More terms than users write by hand, and fast to evaluate for 100,000 VMs. */
const MAX_TERMS = 32;

interface Word {
  text: string;
  at: number;
}

interface Term {
  isNegated: boolean;
  /** Empty for a bare word. */
  key: string;
  operator: '' | ':' | '>' | '<';
  value: string;
  word: Word;
  /** Position of the value. */
  valueAt: number;
}

/** A term that was understood. */
interface Condition {
  matches(row: Filterable, now: number): boolean;
  usesTime?: true;
  /** Flags of `vreg ls`, if there are some with the same meaning. */
  flags?: string;
  /** The same condition in jq, for the elements of `vreg ls -o json`. */
  jq: string;
}

/** @throws FilterError */
export function parseFleetFilter(text: string): FleetFilter {
  const terms = splitWords(text).map(parseTerm);
  if (terms.length > MAX_TERMS) {
    const { word } = terms[MAX_TERMS]!;
    throw new FilterError(`too many terms (limit ${MAX_TERMS})`, word.at, text.length - word.at);
  }
  const conditions = terms.map((term) => conditionOf(term));
  return {
    matches: (row, now) => conditions.every((condition) => condition.matches(row, now)),
    usesTime: conditions.some(({ usesTime }) => usesTime),
    command: commandOf(conditions),
  };
}

/** Words are separated by blanks. Double quotes join words: `name:"a b"`. */
function splitWords(text: string): Word[] {
  const words: Word[] = [];
  const pattern = /(?:[^\s"]|"[^"]*"?)+/g;
  for (const { 0: word, index } of text.matchAll(pattern)) {
    const quotes = word.split('"').length - 1;
    if (quotes % 2 === 1) {
      const at = index + word.lastIndexOf('"');
      throw new FilterError('a quote is not closed', at, text.length - at);
    }
    words.push({ text: word, at: index });
  }
  return words;
}

function parseTerm(word: Word): Term {
  const isNegated = word.text.startsWith('-') && word.text.length > 1;
  const rest = isNegated ? word.text.slice(1) : word.text;
  const start = word.at + (isNegated ? 1 : 0);
  const [, key, operator] = /^([^":<>\s]+)([:<>])/.exec(rest) ?? [];
  if (key === undefined) return { isNegated, key: '', operator: '', value: unquoted(rest), word, valueAt: start };
  const value = rest.slice(key.length + 1);
  const valueAt = start + key.length + 1;
  if (value === '' || value === '""') {
    const example = operator === ':' ? `${key}:value` : `${key}${operator}5m`;
    throw new FilterError(`${key}${operator} has no value, for example ${example}`, word.at, word.text.length);
  }
  return { isNegated, key, operator: operator as Term['operator'], value: unquoted(value), word, valueAt };
}

function unquoted(text: string): string {
  return text.replaceAll('"', '');
}

/** The place in the filter of a part of a value, which may be in quotes. @param from the place of the part in the value */
function placeOf({ word, valueAt }: Term, from: number, length: number): [at: number, length: number] {
  const source = word.text.slice(valueAt - word.at);
  const indexes = Array.from(source.matchAll(/[^"]/g), ({ index }) => index);
  const start = indexes[from] ?? source.length;
  const end = (indexes[from + length - 1] ?? start) + 1;
  return [valueAt + start, end - start];
}

function conditionOf(term: Term): Condition {
  const condition = plainCondition(term);
  if (!term.isNegated) return condition;
  const { matches, usesTime, jq } = condition;
  return {
    matches: (row, now) => !matches(row, now),
    ...(usesTime && { usesTime }),
    ...negatedFlags(term),
    jq: `(${jq} | not)`,
  };
}

/** Fields that a term compares with text that they contain, without regard to case. */
const TEXTS = {
  id: ({ id }: Vm) => id,
  name: ({ name }: Vm) => name,
  address: ({ address }: Vm) => address,
  by: ({ registeredBy }: Vm) => registeredBy,
} as const;
const JQ_TEXTS = { id: '.id', name: '.name', address: '.address', by: '.registeredBy' } as const;

/** The times of a VM that a term compares with an age. */
const TIMES: Readonly<Record<string, { of(row: Filterable): number; jq: string }>> = {
  seen: { of: ({ seen }) => seen, jq: '.ageSeconds' },
  registered: {
    of: ({ vm }) => Date.parse(vm.registeredAt),
    // All three are times of the registry, whose clock may differ from that of jq.
    jq: `(${jqSeconds('.lastSeen')} + .ageSeconds - ${jqSeconds('.registeredAt')})`,
  },
};

/** Fields that have one of a few values. */
const CHOICES: Readonly<Record<string, { values: readonly string[]; of(row: Filterable): string; jq: string }>> = {
  role: { values: ROLES, of: ({ vm }) => vm.role, jq: '.role' },
  status: { values: STATUSES, of: ({ vm }) => vm.status, jq: '.status' },
  live: { values: LIVENESS, of: ({ state }) => state, jq: '.live' },
};

function plainCondition(term: Term): Condition {
  const { key, operator, value, word } = term;
  if (operator === '') return bareWord(value);
  if (operator !== ':' || Object.hasOwn(TIMES, key)) return timeCondition(term);
  if (Object.hasOwn(CHOICES, key)) return choiceCondition(term);
  if (Object.hasOwn(TEXTS, key)) {
    const field = key as keyof typeof TEXTS;
    const pattern = patternOf(value);
    return { matches: ({ vm }) => pattern.test(TEXTS[field](vm)), jq: jqContains(JQ_TEXTS[field], value) };
  }
  if (key === 'parent') return { matches: ({ vm }) => vm.parentId === value, jq: `.parentId == ${json(value)}` };
  if (key === 'service') {
    return {
      matches: ({ vm }) => Array.isArray(vm.services) && vm.services.some((service) => service?.name === value),
      jq: `any(.services[]?; .name == ${json(value)})`,
    };
  }
  const metaKey = key.startsWith('meta.') ? key.slice('meta.'.length) : key;
  if (metaKey === '') throw new FilterError('meta. has no key, for example meta.task:x', word.at, word.text.length);
  return metadataCondition(metaKey, value);
}

/**
 * Matches texts that contain a value, without regard to case. JavaScript and jq match the same texts, because the pattern lists
 * both cases of each letter: jq cannot change the case of letters outside ASCII.
 */
function patternOf(value: string): RegExp {
  const characters = Array.from(value, (character) => {
    const cases = new Set([character, character.toLowerCase(), character.toUpperCase()]);
    const single = [...cases].filter((each) => Array.from(each).length === 1);
    return single.length > 1 ? `[${single.join('')}]` : character.replace(/[\\^$.*+?()[\]{}|]/, '\\$&');
  });
  return new RegExp(characters.join(''), 'u');
}

function bareWord(value: string): Condition {
  const pattern = patternOf(value);
  const fields = ['id', 'name', 'address'] as const;
  return {
    matches: ({ vm }) => fields.some((field) => pattern.test(vm[field])),
    jq: `(${fields.map((field) => jqContains(JQ_TEXTS[field], value)).join(' or ')})`,
  };
}

function choiceCondition(term: Term): Condition {
  const { key, value } = term;
  const { values, of, jq } = CHOICES[key]!;
  const chosen = value.split(',');
  let from = 0;
  for (const each of chosen) {
    if (!values.includes(each)) {
      const place = placeOf(term, from, Math.max(1, each.length));
      throw new FilterError(`${key}: "${each}" is not one of ${values.join(', ')}`, ...place);
    }
    from += each.length + 1;
  }
  const set = new Set(chosen);
  return {
    matches: (row) => set.has(of(row)),
    ...choiceFlags(key, chosen),
    jq: chosen.length === 1 ? `${jq} == ${json(value)}` : `(${jq} | IN(${chosen.map(json).join(', ')}))`,
  };
}

/** `--status running` of the CLI leaves out stale VMs, so that only some terms have a flag. */
function choiceFlags(key: string, chosen: readonly string[]): Pick<Condition, 'flags'> {
  if (key === 'role') return { flags: `--role ${chosen.join(',')}` };
  if (key === 'live' && chosen.join() === 'stale') return { flags: '--stale' };
  if (!chosen.includes('running') && chosen.every((each) => (STATUSES as readonly string[]).includes(each)))
    return { flags: `--status ${chosen.join(',')}` };
  return {};
}

function timeCondition(term: Term): Condition {
  const { key, operator, value, word } = term;
  const time = TIMES[key];
  if (!time) {
    throw new FilterError(
      `${key} cannot be compared with ${operator}: only ${Object.keys(TIMES).join(' and ')} can`,
      word.at,
      word.text.length,
    );
  }
  if (operator === ':') {
    throw new FilterError(`${key} needs > or <, for example ${key}>5m`, word.at, word.text.length);
  }
  const age = durationOf(value);
  if (age === undefined)
    throw new FilterError(
      `${key}: "${value}" is not a duration such as 90s, 5m or 1h30m`,
      ...placeOf(term, 0, value.length),
    );
  const isOlder = operator === '>';
  return {
    matches: (row, now) => (isOlder ? now - time.of(row) > age : now - time.of(row) < age),
    usesTime: true,
    jq: `${time.jq} ${operator} ${age / 1000}`,
  };
}

/** As a selector of `vreg ls -l`: values are compared as text, and others than strings as JSON. */
function metadataCondition(key: string, value: string): Condition {
  const path = `.metadata[${json(key)}]?`;
  const isSelector = !/[,=!\s]/.test(key) && !value.includes(',') && value === value.trim();
  const has = ({ vm }: Filterable) => vm.metadata !== undefined && Object.hasOwn(vm.metadata, key);
  if (value === '*') {
    return {
      matches: has,
      ...(isSelector && { flags: selectorFlag(key) }),
      jq: `((.metadata // {}) | has(${json(key)}))`,
    };
  }
  return {
    matches: (row) => {
      if (!has(row)) return false;
      const found = row.vm.metadata![key];
      return typeof found === 'string' ? found === value : JSON.stringify(found) === value;
    },
    // A value that begins with = would otherwise be a part of the operator.
    ...(isSelector && { flags: selectorFlag(`${key}${value.startsWith('=') ? '==' : '='}${value}`) }),
    jq: `((${path} | if type == "string" then . else tojson end) == ${json(value)} and ((.metadata // {}) | has(${json(key)})))`,
  };
}

/** The flag for an excluded value of the metadata. Other terms have none. */
function negatedFlags({ key, operator, value }: Term): Pick<Condition, 'flags'> {
  const isField =
    [CHOICES, TEXTS, TIMES].some((table) => Object.hasOwn(table, key)) || ['parent', 'service'].includes(key);
  if (operator !== ':' || isField) return {};
  const metaKey = key.startsWith('meta.') ? key.slice('meta.'.length) : key;
  const { flags } = metadataCondition(metaKey, value);
  if (flags === undefined) return {};
  return { flags: selectorFlag(value === '*' ? `!${metaKey}` : `${metaKey}!=${value}`) };
}

function selectorFlag(term: string): string {
  return `-l ${shellWord(term)}`;
}

function json(value: string): string {
  return JSON.stringify(value);
}

/** Time of a field in whole seconds since the epoch. */
function jqSeconds(path: string): string {
  return `(${path} | sub("\\\\.\\\\d+"; "") | fromdate)`;
}

function jqContains(path: string, value: string): string {
  if (/[^\x00-\x7f]/.test(value)) return `(${path} | test(${json(patternOf(value).source)}))`;
  return `(${path} | ascii_downcase | contains(${json(value.toLowerCase())}))`;
}

/** Flags may be given once each, except `-l`. A second term for the same flag becomes a condition of jq. */
function commandOf(conditions: readonly Condition[]): string {
  const flags: string[] = [];
  const rest: string[] = [];
  const used = new Set<string>();
  for (const { flags: text, jq } of conditions) {
    const [name = ''] = text?.split(' ') ?? [];
    // The registry combines a status and --stale in another way.
    const group = name === '--stale' ? '--status' : name;
    if (text === undefined || (group !== '-l' && used.has(group))) rest.push(jq);
    else {
      used.add(group);
      flags.push(text);
    }
  }
  const ls = ['vreg ls', ...flags].join(' ');
  return rest.length === 0 ? ls : `${ls} -o json | jq ${shellWord(`map(select(${rest.join(' and ')}))`)}`;
}

/** A word for a POSIX shell. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
