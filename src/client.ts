/**
 * Client for a registry, with one typed method per route. Every failure is a VregError. Unless its docstring begins with "vreg
 * only", a method also works with the original registry, the server of vers-agent-services, which ignores the query option
 * `include=liveness`.
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
  type Imported,
  type ImportOutcome,
  INCLUDE_LIVENESS,
  type ListQuery,
  type MagicLink,
  PATHS,
  type ReplicaInfo,
  type ReplicaList,
  type VmList,
  type VmWithLiveness,
  type Why,
} from './protocol/api.ts';
import { VregError } from './protocol/errors.ts';
import type { History, HistoryItem } from './protocol/events.ts';
import type { AgentHeartbeat, Cleared, Conflicts, HistoryAnswer } from './protocol/heartbeat.ts';
import { type ProbeCheck, parseChecks } from './protocol/probe.ts';
import { comparison, parseSelector } from './protocol/selector.ts';
import type { NewToken, Revoked, TokenInfo, TokenRequest, Tokens, Whoami } from './protocol/token.ts';
import type { ImportedVm, Registration, Vm, VmUpdate } from './protocol/vm.ts';

/** VMs per page of a list: about 2 MB of JSON, which a slow link transfers within the timeout of a request. */
const PAGE_SIZE = 5000;

export class RegistryClient {
  readonly #connection: Connection;

  constructor(options: ClientOptions) {
    this.#connection = new Connection(options);
  }

  /** The URL in use: the one that responded last or, before the first response, the preferred one. */
  get url(): string {
    return this.#connection.url;
  }

  /** The configured URLs, the preferred one first. */
  get urls(): readonly string[] {
    return this.#connection.urls;
  }

  /** Facts about the server from its last response; defaults before the first one. */
  get server(): ServerFacts {
    return this.#connection.facts ?? { lease: DEFAULT_STALE_AFTER, now: Date.now() };
  }

  /**
   * Registers a VM.
   * @returns the entry; with an enrol token, also the new token of the VM
   * @throws VregError CONFLICT if the id is taken, INVALID, or any of {@link Connection.request}
   */
  register(registration: Registration): Promise<VmWithLiveness & { token?: string }> {
    return this.#entry('POST', PATHS.vms, registration);
  }

  /** Limits the timeout of each request, in milliseconds. */
  set maxTimeout(ms: number) {
    this.#connection.maxTimeout = ms;
  }

  /** Uses another token for further requests; undefined restores the configured one. */
  useToken(token: string | undefined): void {
    this.#connection.token = token;
  }

  /** The token that replaces the configured one; undefined if that is in use. */
  get otherToken(): string | undefined {
    return this.#connection.token;
  }

  /** vreg only: lists tokens, oldest first. @throws VregError UNSUPPORTED, FORBIDDEN, or any of {@link Connection.request} */
  async tokens(): Promise<TokenInfo[]> {
    await this.#requireVreg('tokens');
    return (await this.#connection.request<Tokens>('GET', PATHS.tokens)).tokens;
  }

  /** vreg only: creates a token. @throws VregError UNSUPPORTED, FORBIDDEN, CONFLICT, INVALID, or any of {@link Connection.request} */
  async createToken(request: TokenRequest): Promise<NewToken> {
    await this.#requireVreg('tokens');
    return this.#connection.request<NewToken>('POST', PATHS.tokens, request);
  }

  /** vreg only: revokes a token. @returns the names of the revoked tokens @throws VregError NOT_FOUND, UNSUPPORTED, FORBIDDEN */
  async revokeToken(name: string): Promise<string[]> {
    await this.#requireVreg('tokens');
    return (await this.#connection.request<Revoked>('DELETE', PATHS.token(name))).revoked;
  }

  /** vreg only: revokes an enrol token and the tokens of all VMs that enrolled with it. @throws as {@link revokeToken} */
  async revokeEnrolledBy(name: string): Promise<string[]> {
    await this.#requireVreg('tokens');
    return (await this.#connection.request<Revoked>('DELETE', PATHS.tokens + query({ enrolledBy: name }))).revoked;
  }

  /** vreg only: identity and scope of the current token. @throws VregError UNSUPPORTED, UNAUTHORIZED */
  async whoami(): Promise<Whoami> {
    await this.#requireVreg('tokens');
    return this.#connection.request<Whoami>('GET', PATHS.whoami);
  }

  /**
   * Registers a VM or updates its entry: with a PUT if the server supports it, otherwise with a POST and, if the id is taken, a
   * PATCH, which cannot change the role.
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

  /**
   * Lists VMs, by default newest registration first. A large fleet is read in pages, with one request each, or as by
   * {@link listAtOnce} if a proxy removes the header `Link`. A VM that is registered during all requests is in the list once; one
   * that comes, leaves or changes meanwhile may be missing or have older fields. The position in {@link server} is that of the
   * first page, so that no later change is missed.
   * @throws VregError BUSY if the registry was replaced meanwhile, twice; or any of {@link Connection.request}
   */
  async list(options: ListQuery = {}): Promise<VmWithLiveness[]> {
    const { sort = 'registered' } = options;
    if (sort !== 'registered' && sort !== 'id') return this.listAtOnce(options);
    for (let isRestarted = false; ; isRestarted = true) {
      try {
        return await this.#listInPages(options);
      } catch (cause) {
        // Another registry, or another version of vreg, does not accept the cursor of the previous page.
        if (!(cause instanceof VregError) || cause.code !== 'INVALID' || cause.field !== 'after') throw cause;
        if (isRestarted)
          throw new VregError('BUSY', 'the registry changed while the list was read', { hint: 'try again', cause });
      }
    }
  }

  async #listInPages(options: ListQuery): Promise<VmWithLiveness[]> {
    const { limit = Number.POSITIVE_INFINITY } = options;
    let vms = await this.#list({ ...options, limit: Math.min(PAGE_SIZE, limit) });
    const first = this.server;
    let { warming, nextPage } = first;
    // A full page without `Link` is either the entire list, or a proxy has removed the header.
    if (nextPage === undefined && vms.length === PAGE_SIZE && limit > PAGE_SIZE) return this.listAtOnce(options);
    while (nextPage !== undefined && vms.length < limit) {
      const size = Math.min(PAGE_SIZE, limit - vms.length);
      const page = await this.#list({ ...options, limit: size, after: nextPage });
      const next = this.server.nextPage;
      // For example, a proxy or a cache that ignores the query always returns the first page.
      if (next === nextPage || (next !== undefined && page.length === 0))
        throw this.#connection.badAnswer(`GET ${PATHS.vms} with 200`, 'its pages repeat');
      vms = vms.concat(page);
      nextPage = next;
      warming = Math.max(warming ?? 0, this.server.warming ?? 0) || undefined;
    }
    this.#connection.facts = { ...this.server, position: first.position, warming };
    // The original registry has no pages and ignores the limit.
    return this.server.version === undefined ? select(vms, options) : vms;
  }

  /**
   * One page of {@link list}. The original registry has no pages: the first one contains all VMs.
   * @param after cursor of the previous page; undefined for the first page
   * @returns also the cursor of the next page; undefined if there is none
   * @throws VregError INVALID for an unknown cursor, or any of {@link Connection.request}
   */
  async listPage(
    options: Omit<ListQuery, 'sort'> & { limit: number },
    after?: string,
  ): Promise<{ vms: VmWithLiveness[]; next: string | undefined }> {
    const { limit: _limit, ...filters } = options;
    const vms = await this.#list({ ...options, ...(after !== undefined && { after }) });
    const { version, nextPage } = this.server;
    return version === undefined ? { vms: select(vms, filters), next: undefined } : { vms, next: nextPage };
  }

  /** Lists VMs as {@link list}, but with one request, so that the list is that of one moment. */
  async listAtOnce(options: ListQuery = {}): Promise<VmWithLiveness[]> {
    const vms = await this.#list(options);
    return this.server.version === undefined ? select(vms, options) : vms;
  }

  #list({ limit, ...options }: ListQuery & { after?: string }): Promise<VmWithLiveness[]> {
    return this.#entries(PATHS.vms, { ...options, limit: limit?.toString() });
  }

  /** @throws VregError NOT_FOUND, or any of {@link Connection.request} */
  get(id: string): Promise<VmWithLiveness> {
    return this.#entry('GET', PATHS.vm(checkId(id)));
  }

  /** Returns an entry and its ETag for {@link update}. The ETag is undefined with the original registry. */
  async getWithEtag(id: string): Promise<{ vm: VmWithLiveness; etag: string | undefined }> {
    const vm = await this.get(id);
    return { vm, etag: this.server.etag };
  }

  /**
   * @param expect ETag from {@link getWithEtag}; the update fails if the entry has changed since
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
   * vreg only: registers VMs of another registry with their times. Requires the scope admin.
   * @param entries at most {@link MAX_IMPORT} and {@link MAX_IMPORT_BODY}
   * @returns the outcomes in the order of the entries
   * @throws VregError UNSUPPORTED, also by a vreg daemon without this route, or any of {@link Connection.request}
   */
  async import(entries: readonly ImportedVm[]): Promise<ImportOutcome[]> {
    await this.#requireVreg('imports');
    const answer = await this.#connection
      .request<Partial<Imported>>('POST', PATHS.import, { vms: entries })
      .catch((error: unknown) => {
        throw error instanceof VregError && error.code === 'NOT_FOUND' ? this.#unsupported('imports') : error;
      });
    if (answer.entries?.length !== entries.length) throw this.#connection.badAnswer(`POST ${PATHS.import} with 200`);
    return answer.entries;
  }

  /**
   * Sends a heartbeat.
   * @param heartbeat vreg only (see {@link isVreg}): the agent's proof of identity, its report and its positions
   * @returns how the registry compares the agent's position with its history, if the heartbeat has one
   * @throws VregError NOT_FOUND, IDENTITY_CONFLICT, or any of {@link Connection.request}
   */
  heartbeat(id: string, heartbeat?: AgentHeartbeat): Promise<Heartbeat & Partial<HistoryAnswer>> {
    return this.#connection.request<Heartbeat & Partial<HistoryAnswer>>(
      'POST',
      PATHS.heartbeat(checkId(id)),
      heartbeat,
    );
  }

  /**
   * vreg only (see {@link isVreg}): sends heartbeats of many VMs in one request.
   * @param ids at most {@link MAX_BATCH}
   * @returns the accepted heartbeats, and the ids that are not registered
   */
  async heartbeats(ids: readonly string[]): Promise<{ heard: Heartbeat[]; unknown: string[] }> {
    const { lastSeen, unknown } = await this.#connection.request<Heartbeats>('POST', PATHS.heartbeats, { ids });
    const missing = new Set(unknown);
    return { heard: ids.filter((id) => !missing.has(id)).map((id) => ({ id, lastSeen })), unknown };
  }

  /**
   * The live VMs with a role, oldest registration first, possibly none. With the original registry, `service` is filtered here
   * and `passing` is unsupported.
   * @param poll makes the registry delay its response until at least `min` VMs are live, for at most `wait` whole seconds, which must
   *   be less than the timeout of the request; the original registry responds immediately
   */
  async discover(
    role: string,
    { service, passing, strict }: DiscoverQuery = {},
    poll?: { wait: number; min: number },
  ): Promise<VmWithLiveness[]> {
    const wanted = {
      service,
      passing: passing ? 'true' : undefined,
      strict: strict ? 'true' : undefined,
      ...(poll && { wait: `${poll.wait}s`, min: String(poll.min) }),
    };
    const vms = await this.#entries(PATHS.discover(role), wanted);
    if (service === undefined || this.server.version !== undefined) return vms;
    if (passing) await this.#requireVreg('health checks');
    return vms.filter((vm) => vm.services?.some(({ name }) => name === service));
  }

  /** vreg only: VMs whose parent is this VM, oldest registration first. @throws VregError NOT_FOUND, UNSUPPORTED */
  async children(id: string): Promise<VmWithLiveness[]> {
    await this.#requireVreg('lineage');
    return this.#entries(PATHS.children(checkId(id)), {});
  }

  /** vreg only: parent, grandparent and so on, nearest first. @throws VregError NOT_FOUND, UNSUPPORTED */
  async ancestors(id: string): Promise<VmWithLiveness[]> {
    await this.#requireVreg('lineage');
    return this.#entries(PATHS.ancestors(checkId(id)), {});
  }

  /** vreg only: the VM and all its descendants, depth first. @throws VregError NOT_FOUND, UNSUPPORTED */
  async subtree(id: string): Promise<VmWithLiveness[]> {
    await this.#requireVreg('lineage');
    return this.#entries(PATHS.subtree(checkId(id)), {});
  }

  /** vreg only: makes a link that logs a browser in. @throws VregError UNSUPPORTED, FORBIDDEN, or any of {@link Connection.request} */
  async magicLink(): Promise<MagicLink> {
    await this.#requireVreg('the fleet page');
    return this.#connection.request<MagicLink>('POST', PATHS.magicLink);
  }

  /**
   * vreg only: identity conflicts, newest first, and the claim of another registry.
   * @throws VregError UNSUPPORTED, or any of {@link Connection.request}
   */
  async conflicts(): Promise<Conflicts> {
    await this.#requireVreg('conflicts');
    const answer = await this.#connection.request<Partial<Conflicts>>('GET', PATHS.conflicts);
    if (!Array.isArray(answer.conflicts)) throw this.#connection.badAnswer(`GET ${PATHS.conflicts} with 200`);
    return answer as Conflicts;
  }

  /** vreg only: the replicas that share the store of the registry; none if it has a store of its own. */
  async replicas(): Promise<ReplicaInfo[]> {
    await this.#requireVreg('replicas');
    const answer = await this.#connection.request<Partial<ReplicaList>>('GET', PATHS.replicas);
    if (!Array.isArray(answer.replicas)) throw this.#connection.badAnswer(`GET ${PATHS.replicas} with 200`);
    return answer.replicas;
  }

  /** vreg only: deletes the conflict records of one VM, or all of them and the claim of another registry. @returns the number of deleted records */
  async clearConflicts(id?: string): Promise<number> {
    await this.#requireVreg('conflicts');
    return (await this.#connection.request<Cleared>('DELETE', PATHS.conflicts + query({ id }))).cleared;
  }

  /** vreg only: changes of a VM, newest first. @throws VregError NOT_FOUND, UNSUPPORTED, or any of {@link Connection.request} */
  async history(id: string, limit?: number): Promise<HistoryItem[]> {
    await this.#requireVreg('history');
    return (
      await this.#connection.request<History>('GET', PATHS.history(checkId(id)) + query({ limit: limit?.toString() }))
    ).history;
  }

  /**
   * vreg only: explains whether `discover` returns the VM.
   * @throws VregError NOT_FOUND, UNSUPPORTED, or any of {@link Connection.request}
   */
  async why(id: string): Promise<Why> {
    await this.#requireVreg('explanations');
    return this.#connection.request<Why>('GET', PATHS.why(checkId(id)));
  }

  /**
   * vreg only: the bytes of a consistent copy of the database. The response begins when the copy is complete.
   * @param timeout milliseconds until then; `Infinity` for no limit. By default the timeout of the requests
   * @throws VregError UNSUPPORTED, or any of {@link Connection.request}
   */
  async backup(timeout?: number): Promise<AsyncIterable<Uint8Array>> {
    await this.#requireVreg('backups');
    return this.#connection.open('GET', PATHS.backup, undefined, timeout);
  }

  /** True for a vreg daemon, false for the original registry. Requests `/health` if there has been no response yet. */
  async isVreg(): Promise<boolean> {
    if (!this.#connection.facts) await this.health();
    return this.server.version !== undefined;
  }

  health(): Promise<Health> {
    return this.#connection.request<Health>('GET', PATHS.health);
  }

  /**
   * vreg only. The state of the registry in one word, which requires no token: `ok`, or why its answers or its disk need
   * attention.
   * @returns undefined if the registry has no such route
   * @throws VregError BUSY if the registry is not ready
   */
  async readiness(): Promise<string | undefined> {
    const { status, text } = await this.raw('GET', PATHS.readyz);
    // Anything else comes from another server, or from a proxy.
    if (!/^[a-z]+$/.test(text)) return undefined;
    if (status === 200) return text;
    throw new VregError('BUSY', `the registry at ${this.url} is not ready: ${text}`, {
      hint: 'show the reason: vreg doctor',
    });
  }

  /**
   * vreg only. The checks behind {@link readiness}.
   * @returns undefined if the registry has no such route, or refuses the token
   */
  async readinessChecks(): Promise<ProbeCheck[] | undefined> {
    const { text } = await this.raw('GET', `${PATHS.readyz}?verbose`);
    const checks = parseChecks(text);
    return checks.length > 0 ? checks : undefined;
  }

  /** Opens a streamed response. @throws VregError as {@link Connection.open} */
  open(path: string, headers: Record<string, string>): Promise<AsyncIterable<Uint8Array>> {
    return this.#connection.open('GET', path, headers);
  }

  /**
   * Requests any route and returns the response, as {@link Connection.raw}.
   * @throws VregError UNREACHABLE, OUTCOME_UNKNOWN
   */
  raw(method: string, path: string, body?: string): Promise<Reply> {
    return this.#connection.raw(method, path, body);
  }

  /** Converts an error response from {@link raw}. @param otherwise the message if the response has none */
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

  async #requireVreg(feature: string): Promise<void> {
    if (!(await this.isVreg())) throw this.#unsupported(feature);
  }

  #unsupported(feature: string): VregError {
    const { version } = this.server;
    const what = version === undefined ? 'is not a vreg daemon: it' : `is vreg ${version}, which`;
    return new VregError('UNSUPPORTED', `the registry at ${this.url} ${what} does not support ${feature}`, {
      hint: 'replace it with vreg daemon; existing clients and curl commands keep working',
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

  /**
   * Adds `stale`. For the original registry, which does not send it, computes it from `lastSeen` and the server's clock. A VM whose
   * `lastSeen` is not a time is stale, because nothing shows that it is live.
   */
  #withLiveness(vm: Vm & { stale?: boolean }): VmWithLiveness {
    const { lease, now } = this.server;
    return { ...vm, stale: vm.stale ?? !(now - Date.parse(vm.lastSeen) <= lease) };
  }
}

/** Filters and sorts a list of the original registry, which ignores these options. */
function select(vms: VmWithLiveness[], { selector, sort, limit }: ListQuery): VmWithLiveness[] {
  const selected = selector === undefined ? vms : vms.filter(parseSelector(selector));
  const order = sort && comparison(sort);
  return (order ? selected.sort(order) : selected).slice(0, limit);
}

function query(options: Record<string, string | undefined>): string {
  const given = Object.entries(options).filter((pair): pair is [string, string] => pair[1] !== undefined);
  return given.length > 0 ? `?${new URLSearchParams(given)}` : '';
}

/**
 * Rejects ids that URL parsers would remove from the path, because the request would reach another route.
 * @throws VregError USAGE
 */
function checkId(id: string): string {
  if (id.trim() !== '' && id !== '.' && id !== '..') return id;
  throw new VregError('USAGE', `invalid id "${id}"`, {
    field: 'id',
    hint: 'list registered VMs: vreg ls -q',
  });
}
