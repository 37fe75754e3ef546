/**
 * A registry, as its clients see it: a typed method a route. Whatever goes wrong becomes a VregError that says what to
 * do next. It speaks only what the original registry speaks unless a method's docstring says otherwise; the query option
 * `include=liveness`, which it adds, is nothing to that one.
 */

import { type ClientOptions, Connection, type ServerFacts } from './client/connection.ts';
import type { Reply } from './client/transport.ts';
import {
  DEFAULT_STALE_AFTER,
  type Deleted,
  type DiscoverQuery,
  type Health,
  type Heartbeat,
  type Heartbeats,
  INCLUDE_LIVENESS,
  type ListQuery,
  PATHS,
  type VmList,
  type VmWithLiveness,
  type Why,
} from './protocol/api.ts';
import { VregError } from './protocol/errors.ts';
import type { History, HistoryItem } from './protocol/events.ts';
import type { AgentBeat, Cleared, Conflict, Conflicts } from './protocol/heartbeat.ts';
import { comparison, parseSelector } from './protocol/selector.ts';
import type { NewToken, Revoked, TokenInfo, TokenRequest, Tokens, Whoami } from './protocol/token.ts';
import type { Registration, Vm, VmUpdate } from './protocol/vm.ts';

export class RegistryClient {
  readonly url: string;
  readonly #connection: Connection;

  constructor(options: ClientOptions) {
    this.url = options.url;
    this.#connection = new Connection(options);
  }

  /** What the last answer said of the server; before there was one, what is assumed. */
  get server(): ServerFacts {
    return this.#connection.facts ?? { lease: DEFAULT_STALE_AFTER, now: Date.now() };
  }

  /**
   * @returns the entry; asked with an enrol token, which is good for nothing else, also the token that the VM has from now on
   * @throws VregError CONFLICT when the id is taken, INVALID, or any of {@link Connection.request}
   */
  register(registration: Registration): Promise<VmWithLiveness & { token?: string }> {
    return this.#entry('POST', PATHS.vms, registration);
  }

  /** Asks with another token from now on; with undefined, with its own again. */
  useToken(token: string | undefined): void {
    this.#connection.token = token;
  }

  /** An addition, oldest first. @throws VregError UNSUPPORTED, FORBIDDEN, or any of {@link Connection.request} */
  async tokens(): Promise<TokenInfo[]> {
    await this.#need('tokens');
    return (await this.#connection.request<Tokens>('GET', PATHS.tokens)).tokens;
  }

  /** An addition. @throws VregError UNSUPPORTED, FORBIDDEN, CONFLICT, INVALID, or any of {@link Connection.request} */
  async createToken(request: TokenRequest): Promise<NewToken> {
    await this.#need('tokens');
    return this.#connection.request<NewToken>('POST', PATHS.tokens, request);
  }

  /** An addition. @returns the names of those that were revoked @throws VregError NOT_FOUND, UNSUPPORTED, FORBIDDEN */
  async revokeToken(name: string): Promise<string[]> {
    await this.#need('tokens');
    return (await this.#connection.request<Revoked>('DELETE', PATHS.token(name))).revoked;
  }

  /** An addition: revokes the tokens of all VMs that came in with one enrol token. @throws as {@link revokeToken} */
  async revokeEnrolledBy(name: string): Promise<string[]> {
    await this.#need('tokens');
    return (await this.#connection.request<Revoked>('DELETE', PATHS.tokens + query({ enrolledBy: name }))).revoked;
  }

  /** An addition: who one is to the registry. @throws VregError UNSUPPORTED, UNAUTHORIZED */
  async whoami(): Promise<Whoami> {
    await this.#need('tokens');
    return this.#connection.request<Whoami>('GET', PATHS.whoami);
  }

  /**
   * Registers a VM or brings its entry up to date: one PUT where the server has it, else a POST and, when the id is
   * taken, a PATCH (which leaves the role as it is).
   */
  async registerOrUpdate(registration: Registration): Promise<VmWithLiveness> {
    const { id, role: _role, registeredBy: _by, ...update } = registration;
    if (await this.isVreg()) return this.#entry('PUT', PATHS.vm(checkId(id)), registration);
    try {
      return await this.register(registration);
    } catch (error) {
      if (!(error instanceof VregError) || error.code !== 'CONFLICT') throw error;
      return this.update(id, update);
    }
  }

  /** Newest registration first, unless `sort` says otherwise. What the original registry cannot do is done here. */
  async list({ role, status, selector, sort, limit }: ListQuery = {}): Promise<VmWithLiveness[]> {
    const wanted = { role, status, selector, sort, limit: limit?.toString() };
    const vms = await this.#entries(PATHS.vms, wanted);
    if (this.server.version !== undefined) return vms;
    const selected = selector === undefined ? vms : vms.filter(parseSelector(selector));
    const order = sort && comparison(sort);
    return (order ? selected.sort(order) : selected).slice(0, limit);
  }

  /** @throws VregError NOT_FOUND, or any of {@link Connection.request} */
  get(id: string): Promise<VmWithLiveness> {
    return this.#entry('GET', PATHS.vm(checkId(id)));
  }

  /** With the revision that {@link update} can be told to expect; undefined of the original registry. */
  async getWithRevision(id: string): Promise<{ vm: VmWithLiveness; revision: string | undefined }> {
    const vm = await this.get(id);
    return { vm, revision: this.server.etag };
  }

  /**
   * @param expect a revision from {@link getWithRevision}: the update fails when the entry has another by now
   * @throws VregError NOT_FOUND, INVALID, PRECONDITION_FAILED, or any of {@link Connection.request}
   */
  update(id: string, update: VmUpdate, expect?: string): Promise<VmWithLiveness> {
    return this.#entry('PATCH', PATHS.vm(checkId(id)), update, expect);
  }

  /** @throws VregError NOT_FOUND, or any of {@link Connection.request} */
  deregister(id: string): Promise<Deleted> {
    return this.#connection.request<Deleted>('DELETE', PATHS.vm(checkId(id)));
  }

  /**
   * @param beat an addition: what an agent proves and reports with it. Ask {@link isVreg} first
   * @throws VregError NOT_FOUND, IDENTITY_CONFLICT, or any of {@link Connection.request}
   */
  heartbeat(id: string, beat?: AgentBeat): Promise<Heartbeat> {
    return this.#connection.request<Heartbeat>('POST', PATHS.heartbeat(checkId(id)), beat);
  }

  /**
   * An addition: signs of life of many VMs in one request. Ask {@link isVreg} first.
   * @param ids at most {@link MAX_BATCH}
   * @returns the ids that were heard, and those that are not registered
   */
  async heartbeats(ids: readonly string[]): Promise<{ heard: Heartbeat[]; unknown: string[] }> {
    const { lastSeen, unknown } = await this.#connection.request<Heartbeats>('POST', PATHS.heartbeats, { ids });
    const missing = new Set(unknown);
    return { heard: ids.filter((id) => !missing.has(id)).map((id) => ({ id, lastSeen })), unknown };
  }

  /**
   * The live VMs of a role, oldest registration first, or as the query says; none is an empty array. The original
   * registry knows services, but neither checks nor gaps.
   */
  async discover(role: string, { service, passing, strict }: DiscoverQuery = {}): Promise<VmWithLiveness[]> {
    const wanted = { service, passing: passing ? 'true' : undefined, strict: strict ? 'true' : undefined };
    const vms = await this.#entries(PATHS.discover(role), wanted);
    if (service === undefined || this.server.version !== undefined) return vms;
    if (passing) await this.#need('checks of services');
    return vms.filter((vm) => vm.services?.some(({ name }) => name === service));
  }

  /** An addition: those that were made from the VM, oldest registration first. @throws VregError NOT_FOUND, UNSUPPORTED */
  async children(id: string): Promise<VmWithLiveness[]> {
    await this.#need('lineage');
    return this.#entries(PATHS.children(checkId(id)), {});
  }

  /** An addition: what the VM was made from, nearest first. @throws VregError NOT_FOUND, UNSUPPORTED */
  async ancestors(id: string): Promise<VmWithLiveness[]> {
    await this.#need('lineage');
    return this.#entries(PATHS.ancestors(checkId(id)), {});
  }

  /** An addition: the VM and all that came of it, depth first. @throws VregError NOT_FOUND, UNSUPPORTED */
  async subtree(id: string): Promise<VmWithLiveness[]> {
    await this.#need('lineage');
    return this.#entries(PATHS.subtree(checkId(id)), {});
  }

  /** An addition, newest first. @throws VregError UNSUPPORTED, or any of {@link Connection.request} */
  async conflicts(): Promise<Conflict[]> {
    await this.#need('conflicts');
    const { conflicts } = await this.#connection.request<Partial<Conflicts>>('GET', PATHS.conflicts);
    if (!Array.isArray(conflicts)) throw this.#connection.badAnswer(`GET ${PATHS.conflicts} with 200`);
    return conflicts;
  }

  /** An addition. @param id whose conflicts are forgotten; all when it is left out. @returns how many there were */
  async clearConflicts(id?: string): Promise<number> {
    await this.#need('conflicts');
    return (await this.#connection.request<Cleared>('DELETE', PATHS.conflicts + query({ id }))).cleared;
  }

  /** An addition. Newest change first. @throws VregError NOT_FOUND, UNSUPPORTED, or any of {@link Connection.request} */
  async history(id: string, limit?: number): Promise<HistoryItem[]> {
    await this.#need('histories');
    return (
      await this.#connection.request<History>('GET', PATHS.history(checkId(id)) + query({ limit: limit?.toString() }))
    ).history;
  }

  /** An addition. @throws VregError NOT_FOUND, UNSUPPORTED, or any of {@link Connection.request} */
  async why(id: string): Promise<Why> {
    await this.#need('reasons');
    return this.#connection.request<Why>('GET', PATHS.why(checkId(id)));
  }

  /** An addition: the bytes of a consistent copy of the database. @throws VregError UNSUPPORTED, or any of {@link Connection.request} */
  async backup(): Promise<AsyncIterable<Uint8Array>> {
    await this.#need('backups');
    return this.#connection.open('GET', PATHS.backup);
  }

  /** True of a vreg daemon, false of the original registry; asks for its health if no answer has told yet. */
  async isVreg(): Promise<boolean> {
    if (!this.#connection.facts) await this.health();
    return this.server.version !== undefined;
  }

  health(): Promise<Health> {
    return this.#connection.request<Health>('GET', PATHS.health);
  }

  /** An answer that is read as it comes. @throws VregError as {@link Connection.open} */
  open(path: string, headers: Record<string, string>): Promise<AsyncIterable<Uint8Array>> {
    return this.#connection.open('GET', path, headers);
  }

  /** Any route, and its answer as it came, whatever its status, but for secrets in a refusal. @throws VregError UNREACHABLE */
  raw(method: string, path: string, body?: string): Promise<Reply> {
    return this.#connection.raw(method, path, body);
  }

  /** What to throw of an answer of {@link raw} that is an error. */
  refusal(reply: Reply, otherwise: string): VregError {
    return this.#connection.refusal(reply, otherwise);
  }

  /** Closes the connections; a later request opens new ones. */
  close(): void {
    this.#connection.close();
  }

  async #entry(method: string, path: string, body?: unknown, expect?: string): Promise<VmWithLiveness> {
    const headers = expect === undefined ? undefined : { 'if-match': expect };
    const vm = await this.#connection.request<Partial<Vm>>(method, path + query(INCLUDE_LIVENESS), body, headers);
    if (typeof vm.id !== 'string') throw this.#connection.badAnswer(`${method} ${path} with 200`);
    return this.#withLiveness(vm as Vm);
  }

  async #need(what: string): Promise<void> {
    if (await this.isVreg()) return;
    throw new VregError('UNSUPPORTED', `the registry at ${this.url} is not a vreg daemon: it has no ${what}`, {
      hint: 'run vreg daemon there; its clients and its curl recipes work on unchanged',
    });
  }

  async #entries(path: string, options: Record<string, string | undefined>): Promise<VmWithLiveness[]> {
    const { vms } = await this.#connection.request<Partial<VmList>>(
      'GET',
      path + query({ ...options, ...INCLUDE_LIVENESS }),
    );
    if (!Array.isArray(vms)) throw this.#connection.badAnswer(`GET ${path} with 200`);
    return vms.map((vm) => this.#withLiveness(vm));
  }

  /** The daemon's word; of the original registry, which says nothing, what its `lastSeen` and its clock say. */
  #withLiveness(vm: Vm & { stale?: boolean }): VmWithLiveness {
    const { lease, now } = this.server;
    return { ...vm, stale: vm.stale ?? now - Date.parse(vm.lastSeen) > lease };
  }
}

function query(options: Record<string, string | undefined>): string {
  const given = Object.entries(options).filter((pair): pair is [string, string] => pair[1] !== undefined);
  return given.length > 0 ? `?${new URLSearchParams(given)}` : '';
}

/** An id that has no URL of its own would ask for something else. @throws VregError USAGE */
function checkId(id: string): string {
  if (id.trim() !== '' && id !== '.' && id !== '..') return id;
  throw new VregError('USAGE', `invalid id "${id}"`, {
    field: 'id',
    hint: 'list registered VMs: vreg ls -q',
  });
}
