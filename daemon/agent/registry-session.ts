/**
 * The requests of an agent to the registry: announce the VM, send heartbeats, sign off. An agent with an identity proves it
 * before it changes anything, so a clone never overwrites the entry of the VM from which it was copied.
 *
 * An enrolled VM uses the token that it received when it enrolled. If the registry refuses that token (the entry was removed,
 * the token was revoked, or another registry responds), the session tries the token that the VM had before, because two
 * registries may respond in turn. Then it falls back to the token with which the agent was started, and enrols again if
 * necessary. If that also fails, it returns to the VM's own token.
 */
import type { RegistryClient } from '../../src/client.ts';
import type { OnExit } from '../../src/protocol/api.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { AgentHeartbeat, HistoryAnswer } from '../../src/protocol/heartbeat.ts';
import type { Registration, Vm, VmUpdate } from '../../src/protocol/vm.ts';
import type { DueReport } from './history.ts';
import type { Identity } from './identity.ts';

/** Maximum number of updates per report. A second one is needed if two registries respond in turn. */
const MAX_UPDATES = 2;

export interface RegistrySessionOptions {
  client: Pick<
    RegistryClient,
    | 'register'
    | 'registerOrUpdate'
    | 'get'
    | 'update'
    | 'heartbeat'
    | 'deregister'
    | 'isVreg'
    | 'useToken'
    | 'maxTimeout'
    | 'server'
    | 'url'
    | 'urls'
  >;
  vm: Registration;
  /** Metadata to add to those of `vm`. Unlike those, they do not replace other metadata of an entry that exists. */
  addedMetadata?: Readonly<Record<string, unknown>> | undefined;
  /** Proves the identity of the VM with each heartbeat. If absent, heartbeats contain no proof. */
  identity?: Identity | undefined;
  /** Results of the health checks, sent with each heartbeat. */
  health?: (() => AgentHeartbeat['health']) | undefined;
  /** Called when the registry has issued a token to the VM. */
  onToken?: ((token: string) => void) | undefined;
  /** Called when two registries begin to respond in turn under the URL, and when that is over. */
  onAlternation?: ((isAlternating: boolean) => void) | undefined;
  onExit: OnExit;
  /** Register the VM if the registry does not know it. */
  registerIfMissing: boolean;
  log: AgentLog;
}

export interface AgentLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface HeartbeatResult {
  id: string;
  lastSeen: string;
}

export class RegistrySession {
  readonly #options: RegistrySessionOptions;
  /** Each of these warnings is logged once until the problem is resolved. */
  #diskWarned = false;
  #tokenWarned = false;
  #versionWarned = false;
  /** The agent's position at the last warning about another history. */
  #warnedOf: string | undefined;
  /** Message of the last report that failed, which is logged once. */
  #failedReport: string | undefined;
  /** Work that is due after the last heartbeat. */
  #due: DueReport;
  /** The VM's own tokens if there is no identity to store them. */
  #bearers: Pick<Identity, 'bearer' | 'otherBearer'> = { bearer: undefined, otherBearer: undefined };
  /** The registry has accepted the VM's own token since it last refused to enrol the VM again. */
  #isOwnAccepted = false;

  constructor(options: RegistrySessionOptions) {
    this.#options = options;
  }

  /** Registers the VM or updates its entry. @throws VregError IDENTITY_CONFLICT, and the client's errors */
  async announce(): Promise<void> {
    await this.#withTokenFallback(() => this.#announce());
  }

  async #announce(): Promise<void> {
    const { identity } = this.#options;
    // A VM with an identity token proves its identity first. For a VM without one, the registration shows whether the id is
    // taken.
    if (identity?.hasToken && (await this.#isVreg())) {
      try {
        await this.#sendHeartbeat();
        return await this.#updateEntry();
      } catch (error) {
        if (!hasCode(error, 'NOT_FOUND')) throw error;
      }
    }
    await this.#registerOrUpdate();
  }

  async #registerOrUpdate(): Promise<void> {
    const { identity } = this.#options;
    try {
      await this.#register();
    } catch (error) {
      if (!hasCode(error, 'CONFLICT')) throw error;
      if (identity) await this.#sendHeartbeat();
      await this.#updateEntry();
    }
  }

  /**
   * Sends one heartbeat. Call {@link report} before the next one if {@link isReportDue}.
   * @returns undefined if the VM had to be registered first, which includes a heartbeat
   * @throws VregError IDENTITY_CONFLICT (with `retryAfter` while it is undecided which incarnation is the VM), NOT_FOUND
   *   without `registerIfMissing`, and the client's errors
   */
  heartbeat(): Promise<HeartbeatResult | undefined> {
    return this.#withTokenFallback(() => this.#heartbeat());
  }

  /** Whether the registry may lack information that this agent has reported, according to the last heartbeat. */
  get isReportDue(): boolean {
    return this.#due !== undefined;
  }

  async #heartbeat(): Promise<HeartbeatResult | undefined> {
    const { vm, registerIfMissing, log } = this.#options;
    try {
      return await this.#sendHeartbeat();
    } catch (error) {
      if (!hasCode(error, 'NOT_FOUND') || !registerIfMissing) throw error;
      log.info({ id: vm.id }, 'the registry does not know this VM; registering it');
      await this.#registerOrUpdate();
      return undefined;
    }
  }

  /** Signs the VM off according to `onExit`. Only logs failures, because the process is about to exit. */
  async deregister(): Promise<void> {
    const { client, vm, onExit, log } = this.#options;
    client.useToken(this.#own.bearer);
    try {
      if (onExit === 'stopped') await client.update(vm.id, { status: 'stopped' });
      if (onExit === 'deregister') await client.deregister(vm.id);
      if (onExit !== 'keep')
        log.info(
          { id: vm.id },
          onExit === 'stopped' ? 'set the status of this VM to stopped' : 'removed this VM from the registry',
        );
    } catch (error) {
      log.warn({ id: vm.id }, `could not report to the registry that this VM is stopping: ${(error as Error).message}`);
    }
  }

  async #withTokenFallback<T>(request: () => Promise<T>): Promise<T | undefined> {
    const { bearer, otherBearer } = this.#own;
    let refusal: unknown;
    for (const token of [bearer, otherBearer]) {
      if (token === undefined) continue;
      this.#options.client.useToken(token);
      try {
        const result = await request();
        if (token !== bearer) this.#storeBearer(token);
        this.#isOwnAccepted = true;
        return result;
      } catch (error) {
        if (!isTokenRefused(error)) throw error;
        refusal ??= error;
      }
    }
    return this.#withStartToken(request, refusal);
  }

  /**
   * Uses the token with which the agent was started.
   * @param refusal the error with which the registry has refused the VM's own token; undefined if the VM has none
   */
  async #withStartToken<T>(request: () => Promise<T>, refusal: unknown): Promise<T | undefined> {
    const { client, vm, log } = this.#options;
    const { bearer } = this.#own;
    if (bearer !== undefined && !this.#tokenWarned)
      log.warn(
        { id: vm.id },
        "the registry refuses this VM's own token; falling back to the token with which the agent was started",
      );
    this.#tokenWarned = bearer !== undefined;
    client.useToken(undefined);
    try {
      const result = await this.#withEnrolment(request);
      // No new token was issued, so the agent's start token is sufficient.
      if (bearer !== undefined && this.#own.bearer === bearer) this.#dropBearers();
      this.#tokenWarned = false;
      return result;
    } catch (error) {
      // The heartbeats of the registered VM were probably those of this agent, whose own token may be accepted again soon.
      throw this.#isOwnAccepted && hasCode(error, 'IDENTITY_CONFLICT') ? refusal : error;
    } finally {
      this.#isOwnAccepted = false;
      client.useToken(this.#own.bearer);
    }
  }

  /** If the token is an enrol token, which can only register VMs, registers the VM. */
  async #withEnrolment<T>(request: () => Promise<T>): Promise<T | undefined> {
    try {
      return await request();
    } catch (error) {
      const isEnrolToken = error instanceof VregError && error.code === 'FORBIDDEN' && error.field === 'scope';
      if (!isEnrolToken || !this.#options.registerIfMissing) throw error;
      await this.#register();
      return undefined;
    }
  }

  /** The VM's own tokens. */
  get #own(): Pick<Identity, 'bearer' | 'otherBearer'> {
    return this.#options.identity ?? this.#bearers;
  }

  #storeBearer(token: string): void {
    const { identity, client, onToken } = this.#options;
    this.#bearers = { bearer: token, otherBearer: this.#bearers.bearer };
    this.#tryOnDisk(() => identity?.storeBearer(token));
    client.useToken(token);
    onToken?.(token);
  }

  #dropBearers(): void {
    this.#bearers = { bearer: undefined, otherBearer: undefined };
    this.#tryOnDisk(() => this.#options.identity?.dropBearers());
  }

  async #register(): Promise<void> {
    const { client, vm, addedMetadata, identity, log } = this.#options;
    const registration = addedMetadata ? { ...vm, metadata: { ...addedMetadata, ...vm.metadata } } : vm;
    const { token } = await client.register(registration).catch((error: unknown) => {
      throw identity ? asIdentityConflict(error) : error;
    });
    if (token !== undefined) this.#storeBearer(token);
    log.info({ id: vm.id, role: vm.role, registry: client.url }, 'registered this VM');
    if (!identity) return;
    await this.#sendHeartbeat();
    this.#acknowledged();
  }

  async #sendHeartbeat(): Promise<HeartbeatResult> {
    const { client, vm, identity, health } = this.#options;
    this.#due = undefined;
    const report = health?.();
    if ((!identity && !report) || !(await this.#isVreg())) return client.heartbeat(vm.id);
    const stored = this.#tryOnDisk(() => identity?.nextProof());
    const proof = stored ?? identity?.repeatedProof;
    const { id, lastSeen, ...answer } = await client
      .heartbeat(vm.id, {
        ...(proof && { ...proof, address: vm.address }),
        ...identity?.positions,
        ...(report ? { health: report } : {}),
      })
      .catch((error: unknown) => {
        if (isRefusal(error)) this.#tryOnDisk(() => identity?.refuseProof());
        throw error;
      });
    this.#compareHistory(answer);
    // If this fails, the next heartbeat repeats the same proof, which the registry accepts.
    if (stored) this.#tryOnDisk(() => identity?.confirmProof());
    return { id, lastSeen };
  }

  /**
   * True if the registry supports proofs and health reports. A known vreg registry is still one even if its responses lack the
   * version header, because a proxy that removes the header must not make the agent omit its proof.
   */
  async #isVreg(): Promise<boolean> {
    const { client, vm, identity, log } = this.#options;
    const isVreg = await client.isVreg();
    if (isVreg || !identity?.knowsRegistry) {
      this.#versionWarned = false;
      return isVreg;
    }
    if (!this.#versionWarned)
      log.warn(
        { id: vm.id, registry: client.url },
        'the registry no longer identifies itself as vreg; does a proxy remove its headers? run: vreg doctor',
      );
    this.#versionWarned = true;
    return true;
  }

  /**
   * Runs an action that writes to the disk. If the disk is full, the heartbeat repeats the last proof, or has none, so that the VM
   * does not become stale.
   */
  #tryOnDisk<T>(action: () => T): T | undefined {
    try {
      const result = action();
      this.#diskWarned = false;
      return result;
    } catch (error) {
      if (!hasCode(error, 'STORE_UNUSABLE')) throw error;
      const { log, vm } = this.#options;
      if (!this.#diskWarned)
        log.warn(
          { id: vm.id },
          `${(error as Error).message}; sending heartbeats without a new proof of identity until the state file can be written`,
        );
      this.#diskWarned = true;
      return undefined;
    }
  }

  /** Compares the history of the registry with the known one, and warns if it is another one. */
  #compareHistory(answer: Partial<HistoryAnswer>): void {
    const { client, vm, identity, log, onAlternation } = this.#options;
    if (!identity) return;
    const fields = { id: vm.id, registry: client.url };
    const { position } = identity.positions;
    const before = identity.isAlternating;
    this.#due = identity.observe({ ...answer, position: client.server.position }, client.server.lease);
    const { isAlternating } = identity;
    if (isAlternating !== before) {
      if (isAlternating) log.warn(fields, alternationWarning(client.urls));
      else log.info(fields, `only one registry is responding at ${client.urls.join(' and ')} again`);
      onAlternation?.(isAlternating);
    }
    if (this.#due !== 'report' || isAlternating || this.#warnedOf === position) return;
    this.#warnedOf = position;
    log.warn(fields, 'the registry was restored from a backup, rewound or replaced; reporting this VM again');
  }

  /**
   * Makes the report or comparison that is due after the last heartbeat. A failure is only logged, because it is due again after
   * the next heartbeat.
   */
  async report(): Promise<void> {
    const due = this.#due;
    if (due === undefined) return;
    const { vm, log } = this.#options;
    try {
      // An operator may have paused the VM; the agent knows only that it runs.
      await this.#withTokenFallback(() => this.#updateEntry({ unlessPaused: true, isQuiet: due === 'compare' }));
      this.#failedReport = undefined;
    } catch (error) {
      this.#due = undefined;
      if (!(error instanceof VregError)) throw error;
      // The next heartbeat registers a VM that was removed.
      if (error.code === 'NOT_FOUND' || this.#failedReport === error.message) return;
      this.#failedReport = error.message;
      log.warn({ id: vm.id, code: error.code }, `could not refresh the registry entry of this VM: ${error.message}`);
    }
  }

  /** Called when the registry has acknowledged a complete report of the VM. */
  #acknowledged(): void {
    const { client, identity } = this.#options;
    const { position } = client.server;
    if (identity)
      this.#tryOnDisk(() => (this.#due || identity.isAway ? identity.adopt(position) : identity.follow(position)));
    this.#due = undefined;
  }

  async #updateEntry({ unlessPaused = false, isQuiet = false } = {}): Promise<void> {
    const { client, vm, addedMetadata, log } = this.#options;
    let known = await client.get(vm.id);
    const changesOf = (entry: Vm): VmUpdate => {
      const { status, ...changes } = changedFields(entry, vm, addedMetadata);
      return status === undefined || (unlessPaused && entry.status === 'paused') ? changes : { ...changes, status };
    };
    // Another registry than the one that was read may have been updated. Its response shows whether fields still differ.
    for (let tries = 0; tries < MAX_UPDATES && Object.keys(changesOf(known)).length > 0; tries++)
      known = await client.update(vm.id, changesOf(known));
    if (vm.parentId !== undefined && known.parentId !== vm.parentId && (await client.isVreg())) {
      const { parentVmId: _otherParent, ...rest } = known;
      await client.registerOrUpdate({ ...rest, parentId: vm.parentId });
    }
    this.#acknowledged();
    if (isQuiet) return;
    const fields = { id: vm.id, role: known.role, registry: client.url };
    log.info(fields, 'this VM was already registered; its entry is up to date');
    if (known.role !== vm.role)
      log.warn({ id: vm.id }, `keeping the registered role ${known.role}: a role cannot change after registration`);
  }
}

/** The warning about two registries that respond in turn, for the log and for `vreg daemon status`. */
export function alternationWarning(urls: readonly string[]): string {
  return `two registries are responding in turn at ${urls.join(' and ')}; this VM reports again at most once per lease: see vreg doctor`;
}

/** The fields of the entry that differ. Services and metadata remain unchanged unless the agent was given some. */
function changedFields(
  known: Vm,
  { name, status, address, services, metadata }: Registration,
  added: RegistrySessionOptions['addedMetadata'],
): VmUpdate {
  const all = metadata ? { ...added, ...metadata } : added && { ...known.metadata, ...added };
  const wanted: VmUpdate = { name, status, address, ...(services && { services }), ...(all && { metadata: all }) };
  const changed = Object.entries(wanted).filter(
    ([field, value]) => JSON.stringify(value) !== JSON.stringify(known[field as keyof Vm]),
  );
  return Object.fromEntries(changed);
}

/**
 * An enrol token may not register an id that is taken, unless the VM is silent for one lease period. While that is undecided,
 * the refusal has a `Retry-After`.
 */
function asIdentityConflict(error: unknown): unknown {
  if (!(error instanceof VregError) || error.code !== 'CONFLICT' || error.retryAfter === undefined) return error;
  const { message, hint, retryAfter } = error;
  return new VregError('IDENTITY_CONFLICT', message, { field: 'id', retryAfter, ...(hint && { hint }), cause: error });
}

/** The registry has decided that another incarnation holds the identity. */
function isRefusal(error: unknown): boolean {
  return hasCode(error, 'IDENTITY_CONFLICT') && (error as VregError).retryAfter === undefined;
}

/** The registry throttles invalid tokens by address, and many VMs may share one. A valid token is never throttled. */
function isTokenRefused(error: unknown): boolean {
  const isThrottled = hasCode(error, 'TOO_MANY_REQUESTS') && (error as VregError).field === 'authorization';
  return isThrottled || hasCode(error, 'UNAUTHORIZED');
}

function hasCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof VregError && error.code === code;
}
