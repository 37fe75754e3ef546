/**
 * A model of the wire protocol: a list of VMs, and the expected response to each request. It is written for simplicity and
 * shares no code with the registry, so a difference between the two is a bug in one of them.
 */
import type { ErrorCode } from '../../../src/protocol/errors.ts';

export type Fields = Record<string, unknown>;

/** A request before it is encoded. */
export interface Asked {
  method: string;
  /** Decoded segments, none of them empty. */
  path: readonly string[];
  query: readonly (readonly [name: string, value: string])[];
  headers: Readonly<Record<string, string>>;
  /** Empty if the request has no body. */
  body: Buffer;
}

export interface Expected {
  status: number;
  /** Error code, if the request is refused. */
  code?: ErrorCode;
  /** Fields of which a refusal must name one, or a part of one. */
  fields?: readonly string[];
  /** Expected body; absent if it is not compared. */
  body?: unknown;
  /** Revision in the ETag of an entry, or `weak` for a list; `any` if the list may have none. */
  etag?: number | 'weak' | 'any';
}

export interface ModelLimits {
  maxBody: number;
  maxEntry: number;
  maxVms: number;
  maxTotal: number;
  /** Milliseconds. */
  lease: number;
}

interface ModelVm {
  /** The entry on the wire, without `lastSeen`. */
  vm: Fields;
  created: number;
  revision: number;
  lastSeen: number;
  heardAt: number;
}

interface ModelChange {
  id: string;
  item: { revision: number; at: string; type: string; by: string; changes: Record<string, [unknown, unknown]> };
}

const ROLES = ['infra', 'lieutenant', 'worker', 'golden', 'custom'];
const STATUSES = ['running', 'paused', 'stopped'];
const ORDER =
  'id name role status address services metadata parentId parentVmId reefConfig registeredBy registeredAt'.split(' ');

class Refused extends Error {
  readonly expected: Expected;

  constructor(status: number, code: ErrorCode, ...fields: string[]) {
    super(code);
    this.expected = { status, code, fields };
  }
}

const invalid = (...fields: string[]) => new Refused(400, 'INVALID', ...fields);
const notFound = () => new Refused(404, 'NOT_FOUND', 'id');
const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
const isObject = (value: unknown): value is Fields => typeof value === 'object' && value !== null;
const isRecord = (value: unknown): value is Fields => isObject(value) && !Array.isArray(value);
const iso = (time: number) => new Date(time).toISOString();

export class WireModel {
  readonly vms: ModelVm[] = [];
  readonly journal: ModelChange[] = [];
  readonly health = new Map<string, Fields>();
  revision = 0;
  wall: number;
  heard = 0;
  /** Whether a heartbeat that was read at this listening time may have waited in the kernel during a pause. */
  mayHaveWaited: (heardAt: number) => boolean = () => false;
  readonly #limits: ModelLimits;

  constructor(wall: number, limits: ModelLimits) {
    this.wall = wall;
    this.#limits = limits;
  }

  answer(asked: Asked): Expected {
    try {
      const methods = methodsOf(asked.path);
      if (methods.length === 0) throw new Refused(404, 'NOT_FOUND');
      const method = asked.method === 'HEAD' ? 'GET' : asked.method;
      if (!methods.includes(method)) throw new Refused(405, 'METHOD_NOT_ALLOWED');
      const known = parametersOf(method, asked.path);
      const unknown = asked.query.map(([name]) => name).filter((name) => !known.includes(name));
      if (unknown.length > 0) throw invalid(...unknown);
      const body = method === 'GET' ? undefined : this.#read(asked);
      return this.#route(method, asked, body);
    } catch (error) {
      if (error instanceof Refused) return error.expected;
      throw error;
    }
  }

  /** @returns the entry on the wire */
  json({ vm, lastSeen }: ModelVm): Fields {
    return JSON.parse(JSON.stringify({ ...vm, lastSeen: iso(lastSeen) })) as Fields;
  }

  isStale({ heardAt }: ModelVm): boolean {
    return this.heard - heardAt > this.#limits.lease;
  }

  live(role: string): ModelVm[] {
    return this.vms.filter((each) => each.vm.role === role && each.vm.status === 'running' && !this.isStale(each));
  }

  #route(method: string, asked: Asked, body: unknown): Expected {
    const [first = '', kind = '', id = '', part = '', other = ''] = asked.path;
    if (first === 'ui') return page(kind, method, body);
    if (first !== 'registry') return { status: 200 };
    if (kind === 'vms' && id === '') return method === 'GET' ? this.#list(asked) : this.#register(asked, body);
    if (kind === 'vms' && part === '') {
      if (method === 'PUT') return this.#replace(id, asked, body);
      if (method === 'PATCH') return this.#update(id, asked, body);
      if (method === 'DELETE') return this.#remove(id, asked);
      return this.#one(this.#get(id), asked);
    }
    if (part === 'heartbeat') return this.#beat(id, body);
    if (part === 'history') return this.#history(id, asked);
    if (part === 'why') return this.#why(id);
    if (part === 'diff') return this.#diff(id, other);
    if (part !== '') return this.#family(id, part, asked);
    if (kind === 'heartbeats') return this.#beats(body);
    if (kind === 'import') return this.#import(body);
    if (kind === 'discover') return this.#discover(id, asked);
    if (method === 'DELETE') {
      nonEmpty(asked, 'id');
      return { status: 200, body: { cleared: 0 } };
    }
    return { status: 200, body: { conflicts: [], count: 0 } };
  }

  /** Parses the body. */
  #read(asked: Asked): unknown {
    const isHeartbeat = asked.path[3] === 'heartbeat';
    const { value, error, isText = false } = this.#parse(asked);
    if (error?.expected.code === 'TOO_LARGE') throw error;
    if (asked.method === 'DELETE') return undefined;
    // A body that is not that of an agent makes a plain heartbeat.
    if (isHeartbeat && (!isText || !isOfAgent(value))) return undefined;
    if (error) throw error;
    return value;
  }

  /** Parses the body. `isText` if it is JSON, even if an error makes it unacceptable. */
  #parse({ method, path, body, headers }: Asked): { value?: unknown; error?: Refused; isText?: boolean } {
    const type = headers['content-type'] ?? 'application/json';
    const isJson = /^(application\/(json|.*\+json|x-www-form-urlencoded)|text\/plain)(;|$)/.test(type);
    if (body.length === 0) return {};
    const isIgnorable = method === 'DELETE' || path[3] === 'heartbeat';
    if (!isJson && !isIgnorable) return { error: new Refused(415, 'UNSUPPORTED_MEDIA_TYPE', 'content-type') };
    const maxBody = path[1] === 'import' ? 16_777_216 : this.#limits.maxBody;
    if (body.length > maxBody) return { error: new Refused(413, 'TOO_LARGE', 'body') };
    if (!isJson) return {};
    try {
      const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
      const isFine = path[1] === 'import' ? isAcceptableList(value) : isAcceptable(value, 0);
      return isFine ? { value, isText: true } : { value, isText: true, error: invalid('body') };
    } catch {
      return { error: invalid('body') };
    }
  }

  #get(id: string): ModelVm {
    const found = this.vms.find(({ vm }) => vm.id === id);
    if (!found) throw notFound();
    return found;
  }

  #register(asked: Asked, body: unknown): Expected {
    const vm = readRegistration(body);
    preconditions(asked);
    if (this.vms.some((each) => each.vm.id === vm.id)) throw new Refused(409, 'CONFLICT', 'id');
    return this.#add(vm, asked);
  }

  #add(vm: Fields, asked: Asked): Expected {
    const now = { lastSeen: this.wall, heardAt: this.heard };
    const created = this.revision + 1;
    const added = { vm: inOrder({ ...vm, registeredAt: iso(this.wall) }), created, revision: created, ...now };
    this.#checkSize(added);
    if (this.vms.length >= this.#limits.maxVms) throw new Refused(429, 'TOO_MANY_REQUESTS', 'id');
    this.#checkTotal(added);
    this.vms.push(added);
    this.#note('registered', {}, added.vm);
    return this.#one(added, asked, 201);
  }

  #import(body: unknown): Expected {
    const list = isRecord(body) ? body.vms : body;
    if (!Array.isArray(list)) throw invalid('body');
    const entries: Fields[] = list.map((each) => this.#readImported(each));
    const order = entries
      .filter(({ vm }) => vm !== undefined)
      .sort((a, b) => (a.registered as number) - (b.registered as number));
    for (const entry of order) {
      try {
        this.#addImported(entry);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        Object.assign(entry, { code: error.expected.code });
      }
    }
    const outcomes = entries.map(({ id, code }) => {
      const outcome = { CONFLICT: 'exists', INVALID: 'invalid', '': 'created' }[(code as string) ?? ''] ?? 'refused';
      return { ...(typeof id === 'string' ? { id } : {}), outcome, ...(code === undefined ? {} : { code }) };
    });
    const created = outcomes.filter(({ outcome }) => outcome === 'created').length;
    return { status: 200, body: { entries: outcomes, count: outcomes.length, created } };
  }

  #readImported(given: unknown): Fields {
    if (Buffer.byteLength(JSON.stringify(given)) > this.#limits.maxBody) return { code: 'TOO_LARGE' };
    try {
      if (!isAcceptable(given, 0)) throw invalid('body');
      const vm = readRegistration(given);
      const { registeredAt, lastSeen } = given as Fields;
      const registered = Math.min(this.wall, timeOf(registeredAt, 'registeredAt') ?? this.wall);
      return { id: vm.id, vm, registered, seen: Math.min(this.wall, timeOf(lastSeen, 'lastSeen') ?? registered) };
    } catch (error) {
      if (error instanceof Refused) return { id: isRecord(given) ? given.id : undefined, code: error.expected.code };
      throw error;
    }
  }

  #addImported({ vm, registered, seen }: Fields): void {
    if (this.vms.some((each) => each.vm.id === (vm as Fields).id)) throw new Refused(409, 'CONFLICT', 'id');
    const heardAt = this.heard - (this.wall - (seen as number));
    const created = this.revision + 1;
    const declared = inOrder({ ...(vm as Fields), registeredAt: iso(registered as number) });
    const added = { vm: declared, created, revision: created, lastSeen: seen as number, heardAt };
    this.#checkSize(added);
    if (this.vms.length >= this.#limits.maxVms) throw new Refused(429, 'TOO_MANY_REQUESTS', 'id');
    this.#checkTotal(added);
    this.vms.push(added);
    this.#note('registered', {}, added.vm);
  }

  #replace(id: string, asked: Asked, body: unknown): Expected {
    const vm = readRegistration(body, id);
    const expect = preconditions(asked);
    const before = this.vms.find((each) => each.vm.id === id);
    checkExpected(before, expect);
    if (!before) return this.#add(vm, asked);
    const next = inOrder({ ...vm, registeredAt: before.vm.registeredAt });
    const beat = vm.status === 'running' ? { lastSeen: this.wall, heardAt: this.heard } : {};
    if (ORDER.every((field) => same(before.vm[field], next[field])))
      return this.#one(Object.assign(before, beat), asked);
    return this.#change(before, next, beat, asked);
  }

  #update(id: string, asked: Asked, body: unknown): Expected {
    const before = this.#get(id);
    const update = readUpdate(body, id);
    const expect = preconditions(asked);
    checkExpected(before, expect);
    const next = inOrder({ ...before.vm, ...update });
    const beat = update.status === 'running' ? { lastSeen: this.wall, heardAt: this.heard } : {};
    return this.#change(before, next, beat, asked);
  }

  #change(before: ModelVm, vm: Fields, beat: Partial<ModelVm>, asked: Asked): Expected {
    const after = { ...before, ...beat, vm, revision: this.revision + 1 };
    this.#checkSize(after);
    this.#checkTotal(after, before);
    this.#note(before.vm.status === vm.status ? 'updated' : 'status', before.vm, vm);
    this.#keepHealth(vm, this.health.get(vm.id as string) ?? {});
    return this.#one(Object.assign(before, after), asked);
  }

  #remove(id: string, asked: Asked): Expected {
    const expect = preconditions(asked);
    const before = this.#get(id);
    checkExpected(before, expect);
    this.vms.splice(this.vms.indexOf(before), 1);
    this.health.delete(id);
    this.#note('deregistered', before.vm, {});
    return { status: 200, body: { deleted: true } };
  }

  /** Stores a health report, limited to the services that the VM has now. */
  #keepHealth({ id, services }: Fields, report: Fields): void {
    const names = ((services ?? []) as { name: string }[]).map(({ name }) => name);
    this.health.set(id as string, Object.fromEntries(Object.entries(report).filter(([name]) => names.includes(name))));
  }

  #weightOf(each: ModelVm): number {
    const services = (each.vm.services ?? []) as { name: string }[];
    const bytes = (text: string) => (Buffer.byteLength(text) === text.length ? 1 : 2) * text.length;
    return 1050 + bytes(JSON.stringify(each.vm)) + services.reduce((sum, { name }) => sum + 40 + bytes(name), 0);
  }

  #sizeOf({ vm, lastSeen }: ModelVm): number {
    return Buffer.byteLength(JSON.stringify({ ...vm, lastSeen: iso(lastSeen) }));
  }

  #checkSize(each: ModelVm): void {
    if (this.#sizeOf(each) > this.#limits.maxEntry) throw new Refused(413, 'TOO_LARGE', 'metadata');
  }

  #checkTotal(after: ModelVm, before?: ModelVm): void {
    const others = this.vms.filter((each) => each !== before).reduce((sum, each) => sum + this.#weightOf(each), 0);
    const grows = before === undefined || this.#weightOf(after) > this.#weightOf(before);
    if (grows && others + this.#weightOf(after) > this.#limits.maxTotal)
      throw new Refused(429, 'TOO_MANY_REQUESTS', 'metadata');
  }

  #note(type: string, before: Fields, after: Fields): void {
    const changes: Record<string, [unknown, unknown]> = {};
    for (const field of ORDER) {
      if (same(before[field], after[field])) continue;
      changes[field] = [before[field] ?? null, after[field] ?? null];
    }
    this.revision++;
    const item = { revision: this.revision, at: iso(this.wall), type, by: 'anonymous', changes };
    this.journal.unshift({ id: (after.id ?? before.id) as string, item: JSON.parse(JSON.stringify(item)) });
  }

  #beat(id: string, body: unknown): Expected {
    const health = readHealth(body);
    const beating = this.#get(id);
    Object.assign(beating, { lastSeen: this.wall, heardAt: this.heard });
    if (health) this.#keepHealth(beating.vm, health);
    return { status: 200, body: { id, lastSeen: iso(this.wall) } };
  }

  #beats(body: unknown): Expected {
    if (!isRecord(body)) throw invalid('body');
    const ids = Array.isArray(body.ids) ? [...new Set(body.ids.map(textOf))] : [undefined];
    if (ids.includes(undefined)) throw invalid('ids');
    const [known, unknown] = [true, false].map((is) =>
      ids.filter((id) => this.vms.some(({ vm }) => vm.id === id) === is),
    );
    for (const id of known!) Object.assign(this.#get(id!), { lastSeen: this.wall, heardAt: this.heard });
    return { status: 200, body: { lastSeen: iso(this.wall), count: known!.length, unknown } };
  }

  #history(id: string, asked: Asked): Expected {
    const limit = wholeNumber(asked, 'limit', 1, 10_000) ?? 100;
    const items = this.journal.filter((change) => change.id === id).map(({ item }) => item);
    if (items.length === 0) throw notFound();
    const history = items.slice(0, limit);
    return { status: 200, body: { id, history, count: history.length } };
  }

  #why(id: string): Expected {
    const found = this.#get(id);
    const codes = [
      ...(found.vm.status === 'running' ? [] : [found.vm.status]),
      ...(this.isStale(found) ? ['stale'] : []),
    ];
    // The codes are compared, and the texts are not; see wire-run.ts.
    return { status: 200, body: { id, offered: codes.length === 0, codes } };
  }

  #diff(id: string, other: string): Expected {
    const [a, b] = [id, other].map((each) => (this.#get(each).vm.reefConfig ?? {}) as Record<string, string[]>);
    const added = (from: Record<string, string[]>, to: Record<string, string[]>) =>
      Object.fromEntries(
        ['services', 'capabilities'].map((list) => [
          list,
          (to[list] ?? []).filter((name, at, all) => !from[list]?.includes(name) && all.indexOf(name) === at),
        ]),
      );
    return { status: 200, body: { added: added(a!, b!), removed: added(b!, a!) } };
  }

  #children(id: string): ModelVm[] {
    return this.vms.filter(({ vm }) => vm.parentId === id);
  }

  #family(id: string, part: string, asked: Asked): Expected {
    const self = this.vms.find(({ vm }) => vm.id === id);
    if (!self && this.#children(id).length === 0) throw notFound();
    if (part === 'children') return this.#many(this.#children(id), asked, part);
    const found: ModelVm[] = [];
    if (part === 'subtree') {
      const seen = new Set<unknown>();
      const walk = (at: unknown) => {
        if (seen.has(at)) return;
        seen.add(at);
        found.push(...this.vms.filter(({ vm }) => vm.id === at));
        for (const { vm } of this.#children(at as string)) walk(vm.id);
      };
      walk(id);
    } else {
      const parentOf = (of: ModelVm | undefined) => this.vms.find(({ vm }) => of && vm.id === of.vm.parentId);
      for (let at = parentOf(self); at && at !== self && !found.includes(at); at = parentOf(at)) found.push(at);
    }
    return this.#many(found, asked, part);
  }

  #list(asked: Asked): Expected {
    const { role, status, selector, sort = 'registered' } = query(asked, 'role', 'status', 'selector', 'sort');
    const limit = wholeNumber(asked, 'limit', 1, Number.MAX_SAFE_INTEGER);
    if (!['registered', 'id', 'name', 'role', 'seen'].includes(sort)) throw invalid('sort');
    const [parent, other] = [nonEmpty(asked, 'parentId'), nonEmpty(asked, 'parentVmId')];
    if (parent !== undefined && other !== undefined && parent !== other) throw invalid('parentVmId');
    const parentId = parent ?? other;
    const terms = readSelector(selector);
    const found = this.vms
      .toReversed()
      .filter(({ vm }) => (role === undefined || vm.role === role) && (status === undefined || vm.status === status))
      .filter((each) => status !== 'running' || !this.isStale(each))
      .filter(({ vm }) => parentId === undefined || vm.parentId === parentId)
      .filter(({ vm }) => terms.every((holds) => holds((vm.metadata ?? {}) as Fields)));
    const before = (a: unknown, b: unknown) => ((a as string) < (b as string) ? -1 : a === b ? 0 : 1);
    if (sort === 'seen') found.sort((a, b) => b.lastSeen - a.lastSeen);
    else if (sort !== 'registered') found.sort((a, b) => before(a.vm[sort], b.vm[sort]));
    const list = this.#many(limit === undefined ? found : found.slice(0, limit), asked);
    return sort === 'seen' ? list : tagged(list, asked);
  }

  #discover(role: string, asked: Asked): Expected {
    const { service, wait } = query(asked, 'service', 'wait');
    wholeNumber(asked, 'min', 0, Number.MAX_SAFE_INTEGER);
    const [passing, strict] = [flag(asked, 'passing'), flag(asked, 'strict')];
    if (passing && service === undefined) throw invalid('passing');
    const has = ({ vm }: ModelVm) => ((vm.services ?? []) as Fields[]).some(({ name }) => name === service);
    const rank = ({ vm }: ModelVm) => {
      const report = this.health.get(vm.id as string) ?? {};
      return ['passing', undefined, 'failing'].indexOf(own(report, service!) as string | undefined);
    };
    const found = this.live(role).filter((each) => service === undefined || has(each));
    if (service !== undefined) found.sort((a, b) => rank(a) - rank(b));
    const kept = found
      .filter((each) => !passing || rank(each) === 0)
      .filter(
        ({ lastSeen, heardAt }) =>
          !strict || (lastSeen >= this.wall - this.#limits.lease && !this.mayHaveWaited(heardAt)),
      );
    const list = this.#many(kept, asked);
    if (strict) return list;
    // A delayed response may have no tag.
    return wait === undefined ? tagged(list, asked) : { ...list, etag: 'any' };
  }

  #one(each: ModelVm, asked: Asked, status = 200): Expected {
    return { status, body: this.#shown(each, includesLiveness(asked)), etag: each.revision };
  }

  /** @param name a second name of the list */
  #many(found: readonly ModelVm[], asked: Asked, name = 'vms'): Expected {
    const extended = includesLiveness(asked);
    const vms = found.map((each) => this.#shown(each, extended));
    return { status: 200, body: { [name]: vms, vms, count: vms.length } };
  }

  #shown(each: ModelVm, extended: boolean): Fields {
    if (!extended) return this.json(each);
    const report = this.health.get(each.vm.id as string) ?? {};
    const names = ((each.vm.services ?? []) as Fields[]).map(({ name }) => name as string);
    const probed = names.filter((name) => own(report, name)).map((name) => [name, report[name]]);
    const health = probed.length > 0 ? { health: Object.fromEntries(probed) } : {};
    return { ...this.json(each), stale: this.isStale(each), ...health };
  }
}

/** A list with a weak ETag. It is 304 for a client that sends `If-None-Match: *`. */
function tagged(list: Expected, { headers }: Asked): Expected {
  return headers['if-none-match'] === '*' ? { status: 304, etag: 'weak' } : { ...list, etag: 'weak' };
}

const own = (record: Fields, key: string) => (Object.hasOwn(record, key) ? record[key] : undefined);

function inOrder(vm: Fields): Fields {
  return Object.fromEntries(
    ORDER.filter((field) => vm[field] !== undefined && vm[field] !== null).map((f) => [f, vm[f]]),
  );
}

const PARTS: Readonly<Record<string, string>> = {
  heartbeat: 'POST',
  history: 'GET',
  why: 'GET',
  children: 'GET',
  ancestors: 'GET',
  subtree: 'GET',
};
const KINDS: Readonly<Record<string, readonly string[]>> = {
  vms: ['GET', 'POST'],
  heartbeats: ['POST'],
  import: ['POST'],
  conflicts: ['GET', 'DELETE'],
};

const PAGE: Readonly<Record<string, readonly string[]>> = { login: ['GET', 'POST'], session: ['GET', 'DELETE'] };

/** The page of a registry without tokens, which has no links. */
function page(kind: string, method: string, body: unknown): Expected {
  if (kind === '') return { status: 308 };
  if (kind === 'session' && method === 'DELETE') return { status: 200, body: { authenticated: false } };
  if (kind === 'session') return { status: 200, body: { authenticated: true, name: 'anonymous', scope: 'admin' } };
  if (kind !== 'login') throw new Refused(404, 'NOT_FOUND');
  if (method === 'GET') return { status: 200 };
  if (!isRecord(body)) throw invalid('body');
  throw typeof body.token === 'string' ? new Refused(401, 'UNAUTHORIZED') : invalid('token');
}

/** @returns the methods of a path, without routes that stream or need a data dir */
function methodsOf([first, kind = '', id, part, ...more]: readonly string[]): readonly string[] {
  if (kind === 'vms' && part === 'diff') return first === 'registry' && more.length === 1 ? ['GET'] : [];
  if (more.length > 0) return [];
  if ((first === 'health' || first === 'metrics') && kind === '') return ['GET'];
  if (first === 'auth') return kind === 'magic-link' && id === undefined ? ['POST'] : [];
  if (first === 'ui' && id === undefined) return PAGE[kind] ?? ['GET'];
  if (first !== 'registry') return [];
  if (id === undefined) return Object.hasOwn(KINDS, kind) ? KINDS[kind]! : [];
  if (kind === 'discover' && part === undefined) return ['GET'];
  if (kind !== 'vms') return [];
  if (part === undefined) return ['GET', 'PUT', 'PATCH', 'DELETE'];
  return Object.hasOwn(PARTS, part) ? [PARTS[part]!] : [];
}

/** The query parameters of a route. A vreg client gets an error for any other. */
function parametersOf(method: string, [first, kind, id, part]: readonly string[]): readonly string[] {
  if (first === 'ui') return kind === 'login' && method === 'GET' ? ['token'] : [];
  if (kind === 'discover') return ['service', 'passing', 'strict', 'wait', 'min', 'include'];
  if (kind === 'conflicts') return method === 'DELETE' ? ['id'] : [];
  if (part === 'history') return ['limit'];
  if (kind !== 'vms' || ['heartbeat', 'why', 'diff'].includes(part ?? '')) return [];
  if (id === undefined && method === 'GET')
    return ['role', 'status', 'selector', 'sort', 'limit', 'after', 'parentId', 'parentVmId', 'include'];
  return ['include'];
}

/** @param depth number of objects and arrays around the value */
function isAcceptable(value: unknown, depth: number): boolean {
  if (typeof value === 'number') return Number.isFinite(value);
  if (!isObject(value)) return true;
  if (depth >= 128 || Object.hasOwn(value, '__proto__')) return false;
  if (
    Object.hasOwn(value, 'constructor') &&
    isObject(value.constructor) &&
    Object.hasOwn(value.constructor, 'prototype')
  )
    return false;
  return Object.values(value).every((each) => isAcceptable(each, depth + 1));
}

/** Each entry of an import has its own outcome and its own depth. The rest of the body follows the usual rules. */
function isAcceptableList(value: unknown): boolean {
  const literals = (list: unknown) => (Array.isArray(list) ? list.filter((each) => !isObject(each)) : list);
  if (!isRecord(value)) return isAcceptable(literals(value), 0);
  return isAcceptable('vms' in value ? { ...value, vms: literals(value.vms) } : value, 0);
}

function textOf(value: unknown): string | undefined {
  if (typeof value !== 'string') return undefined;
  const text = value.trim();
  const isPlain = text.isWellFormed() && !/[\u0000-\u001f\u007f-\u009f]/.test(text);
  return text !== '' && text.length <= 1024 && isPlain ? text : undefined;
}

/** An id or a parent; no command takes a word of it for a flag. */
function idOf(value: unknown): string | undefined {
  const text = textOf(value);
  return text?.split(/\s/).some((word) => word.replace(/^["'\\]+/, '').startsWith('-')) ? undefined : text;
}

/** Knows host names and IPv4 addresses only: the requests have no others, except for junk. */
function addressOf(value: unknown): string | undefined {
  const address = textOf(value)?.replace(/^https?:\/\/([^/]*)\/?$/i, '$1');
  if (address === undefined) return undefined;
  const [, host = '', port = '1'] = /^([a-z0-9_][a-z0-9._-]*)(?::([1-9]\d{0,4}))?$/i.exec(address) ?? [];
  return host !== '' && Number(port) < 65_536 ? address : undefined;
}

function readerOf(field: string): (value: unknown) => string | undefined {
  if (field === 'id') return idOf;
  return field === 'address' ? addressOf : textOf;
}

function readRegistration(body: unknown, urlId?: string): Fields {
  if (!isRecord(body)) throw invalid('body');
  const wrong: string[] = [];
  const vm: Fields = {};
  for (const field of ['id', 'name', 'address', 'registeredBy']) {
    vm[field] = readerOf(field)(field === 'id' ? (body.id ?? urlId) : body[field]);
    if (vm[field] === undefined) wrong.push(field);
  }
  if (vm.id === '.' || vm.id === '..' || (urlId !== undefined && vm.id !== urlId)) wrong.push('id');
  vm.role = body.role;
  if (!ROLES.includes(vm.role as string)) wrong.push('role');
  vm.status = body.status || 'running';
  if (!STATUSES.includes(vm.status as string)) wrong.push('status');
  readLists(body, vm, wrong);
  for (const field of ['parentId', 'parentVmId']) {
    const parent = body[field];
    if (parent === undefined || parent === null || parent === '') continue;
    vm[field] = idOf(parent);
    if (vm[field] === undefined || vm[field] === vm.id) wrong.push(field);
  }
  if (vm.parentVmId !== undefined && (vm.parentId ?? vm.parentVmId) !== vm.parentVmId) wrong.push('parentVmId');
  vm.parentId ??= vm.parentVmId;
  if (wrong.length > 0) throw invalid(...wrong);
  return vm;
}

function readUpdate(body: unknown, id: string): Fields {
  if (!isRecord(body)) throw invalid('body');
  const wrong: string[] = [];
  const update: Fields = {};
  for (const field of ['name', 'address']) {
    if (body[field] === undefined) continue;
    update[field] = readerOf(field)(body[field]);
    if (update[field] === undefined) wrong.push(field);
  }
  if (body.status !== undefined && !STATUSES.includes(body.status as string)) wrong.push('status');
  if (body.status !== undefined) update.status = body.status;
  readLists(body, update, wrong);
  const { parentVmId } = body;
  if (parentVmId !== undefined && parentVmId !== null && parentVmId !== '') {
    update.parentId = idOf(parentVmId);
    update.parentVmId = update.parentId;
    if (update.parentId === undefined || update.parentId === id) wrong.push('parentVmId');
  }
  if (wrong.length > 0) throw invalid(...wrong);
  return update;
}

/** Reads services, metadata and reefConfig; `null` if they are removed. */
function readLists({ services, metadata, reefConfig }: Fields, into: Fields, wrong: string[]): void {
  if (reefConfig !== undefined) into.reefConfig = reefConfig;
  if (reefConfig !== undefined && reefConfig !== null) into.reefConfig = readReefConfig(reefConfig, wrong);
  if (metadata !== undefined) into.metadata = metadata;
  if (metadata !== undefined && metadata !== null && !isRecord(metadata)) wrong.push('metadata');
  if (services === undefined) return;
  into.services = services;
  if (services === null) return;
  const isService = (each: unknown) =>
    isRecord(each) &&
    textOf(each.name) !== undefined &&
    Number.isInteger(each.port) &&
    (each.port as number) >= 1 &&
    (each.port as number) <= 65535 &&
    ['string', 'undefined'].includes(typeof (each.healthPath ?? undefined));
  if (!Array.isArray(services) || services.length > 256 || !services.every(isService)) wrong.push('services');
  else into.services = services.map(serviceOf);
}

function readReefConfig(config: unknown, wrong: string[]): Fields {
  if (!isRecord(config)) {
    wrong.push('reefConfig');
    return {};
  }
  const [services, capabilities] = ['services', 'capabilities'].map((list) => {
    const names = config[list] ?? [];
    if (Array.isArray(names) && names.every((name) => textOf(name) !== undefined)) return names.map(textOf);
    wrong.push(`reefConfig.${list}`);
    return [];
  });
  return { ...config, services, capabilities };
}

function serviceOf(given: Fields): Fields {
  const { healthPath, ...rest } = given;
  const service = healthPath === undefined || healthPath === null ? rest : given;
  return { ...service, name: textOf(given.name), port: given.port };
}

/** Milliseconds since the epoch. */
function timeOf(value: unknown, field: string): number | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  if (typeof value !== 'string' || !/^\d{4}-.*T.*Z$/.test(value)) throw invalid(field);
  return Date.parse(value);
}

function isOfAgent(body: unknown): boolean {
  if (!isRecord(body)) return false;
  return ['spend', 'next'].some((field) => body[field] !== undefined) || isRecord(body.health);
}

/** Reads the health in a heartbeat. A heartbeat with a proof is refused, because no proof in these tests is valid. */
function readHealth(body: unknown): Fields | undefined {
  if (!isRecord(body)) return undefined;
  const { spend, next, health, incarnation, address, replace, revision } = body;
  const wrong: string[] = [];
  if (spend !== undefined) wrong.push('spend');
  if (next !== undefined) wrong.push('next');
  if (wrong.length === 0 && !isRecord(health)) return undefined;
  const isText = (value: unknown, max: number) =>
    value === undefined ||
    (typeof value === 'string' && value.length <= max && value.isWellFormed() && !/[\u0000-\u001f\u007f]/.test(value));
  if (!isText(incarnation, 128)) wrong.push('incarnation');
  if (address !== undefined && address !== '' && addressOf(address) === undefined) wrong.push('address');
  if (replace !== undefined && typeof replace !== 'boolean') wrong.push('replace');
  if (revision !== undefined && !(Number.isSafeInteger(revision) && (revision as number) >= 0)) wrong.push('revision');
  const states = Object.entries(isRecord(health) ? health : {});
  if (states.length > 256 || (health !== undefined && !isRecord(health))) wrong.push('health');
  for (const [name, state] of states)
    if (name.length > 1024 || (state !== 'passing' && state !== 'failing')) wrong.push(`health.${name.slice(0, 60)}`);
  if (wrong.length > 0) throw invalid(...wrong);
  return { ...(health as Fields) };
}

/** Revisions of the ETags in `If-Match`; weak and foreign ones are NaN. */
type Precondition = readonly number[] | 'any' | 'none' | undefined;

/** Reads the preconditions of a change. */
function preconditions(asked: Asked): Precondition {
  const { 'if-match': match, 'if-none-match': noneMatch } = asked.headers;
  const wrong: string[] = [];
  try {
    includesLiveness(asked);
  } catch {
    wrong.push('include');
  }
  const isList = /^(W\/)?"[^"]*"(, (W\/)?"[^"]*")*$/.test(match ?? '');
  if (noneMatch !== undefined && noneMatch !== '*') wrong.push('if-none-match');
  else if (noneMatch === undefined && match !== undefined && match !== '*' && !isList) wrong.push('if-match');
  if (wrong.length > 0) throw invalid(...wrong);
  if (noneMatch !== undefined) return 'none';
  if (match === undefined) return undefined;
  return match === '*' ? 'any' : match.split(', ').map((tag) => Number(/^"(\d+)"$/.exec(tag)?.[1]));
}

function checkExpected(before: ModelVm | undefined, expect: Precondition): void {
  const met = { any: before !== undefined, none: before === undefined };
  const holds =
    typeof expect === 'string'
      ? met[expect]
      : expect === undefined || (before !== undefined && expect.includes(before.revision));
  if (!holds) throw new Refused(412, 'PRECONDITION_FAILED');
}

function query<K extends string>(asked: Asked, ...names: readonly K[]): { [name in K]?: string } {
  const known: { [name in K]?: string } = {};
  for (const name of names) {
    const values = asked.query.filter(([key]) => key === name).map(([, value]) => value);
    // The response may name any of the invalid parameters.
    if (values.length > 1) throw invalid(...asked.query.map(([key]) => key));
    if (values[0]) known[name] = values[0];
  }
  return known;
}

/** A parameter that needs a value if it is given. */
function nonEmpty(asked: Asked, name: string): string | undefined {
  const value = query(asked, name)[name];
  if (value === undefined && asked.query.some(([key]) => key === name))
    throw invalid(...asked.query.map(([key]) => key));
  return value;
}

function wholeNumber(asked: Asked, name: string, min: number, max: number): number | undefined {
  const text = query(asked, name)[name];
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) throw invalid(...asked.query.map(([key]) => key));
  return value;
}

function flag(asked: Asked, name: string): boolean {
  const text = query(asked, name)[name];
  if (text !== undefined && text !== 'true' && text !== 'false') throw invalid(...asked.query.map(([key]) => key));
  return text === 'true';
}

function includesLiveness(asked: Asked): boolean {
  const { include } = query(asked, 'include');
  if (include !== undefined && include !== 'liveness') throw invalid('include');
  return include !== undefined;
}

function readSelector(text: string | undefined): ((metadata: Fields) => boolean)[] {
  if (text === undefined) return [];
  return text.split(',').map((term) => {
    const [, not, key, operator, value] = /^\s*(!?)([^=!,\s]+)(?:\s*(==|=|!=)\s*(.*?))?\s*$/s.exec(term) ?? [];
    if (key === undefined || (not && operator)) throw invalid('selector');
    if (!operator) return (metadata) => Object.hasOwn(metadata, key) === !not;
    const equals = (metadata: Fields) => {
      if (!Object.hasOwn(metadata, key)) return false;
      const found = metadata[key];
      return (typeof found === 'string' ? found : JSON.stringify(found)) === value;
    };
    return (metadata) => equals(metadata) === (operator !== '!=');
  });
}
