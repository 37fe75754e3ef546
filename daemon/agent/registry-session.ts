/**
 * What an agent says to the registry: that its VM is there, that it lives, and its last word. With an identity it proves
 * itself before it changes anything, so that a clone never writes over the entry of the VM it was copied from.
 *
 * A VM that was enrolled speaks with the token that it got then. Where that is refused, its entry was removed, the token
 * revoked, or another registry answers: it speaks, or enrols anew, with the token that it was started with, and goes back
 * to its own if that fails.
 */
import type { RegistryClient } from '../../src/client.ts';
import type { OnExit } from '../../src/protocol/api.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { AgentBeat } from '../../src/protocol/heartbeat.ts';
import type { Registration, Vm, VmUpdate } from '../../src/protocol/vm.ts';
import type { Identity } from './identity.ts';

export interface RegistrySessionOptions {
  client: Pick<
    RegistryClient,
    'register' | 'get' | 'update' | 'heartbeat' | 'deregister' | 'isVreg' | 'useToken' | 'server' | 'url'
  >;
  vm: Registration;
  /** Proves with each beat who the VM is; without one, beats are plain. */
  identity?: Identity | undefined;
  /** What the probes of the VM's services found. */
  health?: (() => AgentBeat['health']) | undefined;
  /** Called when the registry gave the VM a token of its own. */
  onToken?: ((token: string) => void) | undefined;
  onExit: OnExit;
  /** Registers when the registry does not know the VM. */
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
  #diskWarned = false;
  /** Its own token was refused, and that is told. */
  #tokenWarned = false;
  /** The VM's own token, where nobody keeps it. */
  #bearer: string | undefined;

  constructor(options: RegistrySessionOptions) {
    this.#options = options;
  }

  /** Makes the registry know the VM as it is. @throws VregError IDENTITY_CONFLICT, and the client's errors */
  async announce(): Promise<void> {
    await this.#withTokenFallback(() => this.#announce());
  }

  async #announce(): Promise<void> {
    const { client, identity } = this.#options;
    // Who has a token proves itself first; who has none finds out by registering whether anybody has the id.
    if (identity?.hasToken && (await client.isVreg())) {
      try {
        await this.#sendHeartbeat();
        return await this.#updateEntry();
      } catch (error) {
        if (!hasCode(error, 'NOT_FOUND')) throw error;
        this.#tryOnDisk(() => identity.resetChain());
      }
    }
    try {
      await this.#register();
    } catch (error) {
      if (!hasCode(error, 'CONFLICT')) throw error;
      if (identity) await this.#sendHeartbeat();
      await this.#updateEntry();
    }
  }

  /** One sign of life. @throws VregError IDENTITY_CONFLICT, NOT_FOUND unless it registers, and the client's errors */
  heartbeat(): Promise<HeartbeatResult | undefined> {
    return this.#withTokenFallback(() => this.#heartbeat());
  }

  async #heartbeat(): Promise<HeartbeatResult | undefined> {
    const { client, vm, identity, registerIfMissing, log } = this.#options;
    try {
      const beat = await this.#sendHeartbeat();
      const change = identity?.compareRegistry(client.server) ?? 'same';
      if (change !== 'same') await this.#announceAgain(change);
      return beat;
    } catch (error) {
      if (!hasCode(error, 'NOT_FOUND') || !registerIfMissing) throw error;
      log.info({ id: vm.id }, 'the registry does not know this VM; registering it');
      this.#tryOnDisk(() => identity?.resetChain());
      await this.#announce();
      return undefined;
    }
  }

  /** The last word of a VM that is told to stop. Failures are logged: there is nobody left to retry for. */
  async deregister(): Promise<void> {
    const { client, vm, identity, onExit, log } = this.#options;
    client.useToken(identity?.bearer);
    try {
      if (onExit === 'stopped') await client.update(vm.id, { status: 'stopped' });
      if (onExit === 'deregister') await client.deregister(vm.id);
      if (onExit !== 'keep')
        log.info(
          { id: vm.id },
          onExit === 'stopped' ? 'declared this VM stopped' : 'removed this VM from the registry',
        );
    } catch (error) {
      log.warn({ id: vm.id }, `could not tell the registry that this VM stops: ${(error as Error).message}`);
    }
  }

  async #withTokenFallback<T>(speak: () => Promise<T>): Promise<T | undefined> {
    const { client, vm, identity, log } = this.#options;
    const own = identity?.bearer ?? this.#bearer;
    client.useToken(own);
    try {
      return await this.#withEnrolment(speak);
    } catch (error) {
      if (own === undefined || !hasCode(error, 'UNAUTHORIZED')) throw error;
      if (!this.#tokenWarned)
        log.warn(
          { id: vm.id },
          "the registry does not take this VM's own token any more; trying the one it was started with",
        );
      this.#tokenWarned = true;
      client.useToken(undefined);
      try {
        const said = await this.#withEnrolment(speak);
        // It may do without: the one that it was started with is as good.
        if ((identity?.bearer ?? this.#bearer) === own) this.#dropBearer();
        this.#tokenWarned = false;
        return said;
      } finally {
        client.useToken(identity?.bearer ?? this.#bearer);
      }
    }
  }

  /** Who may do nothing but register has an enrol token. */
  async #withEnrolment<T>(speak: () => Promise<T>): Promise<T | undefined> {
    try {
      return await speak();
    } catch (error) {
      const isEnroller = error instanceof VregError && error.code === 'FORBIDDEN' && error.field === 'scope';
      if (!isEnroller || !this.#options.registerIfMissing) throw error;
      await this.#register();
      return undefined;
    }
  }

  #dropBearer(): void {
    this.#bearer = undefined;
    this.#tryOnDisk(() => this.#options.identity?.dropBearer());
  }

  async #register(): Promise<void> {
    const { client, vm, identity, onToken, log } = this.#options;
    const { token } = await client.register(vm);
    if (token !== undefined) {
      this.#bearer = token;
      this.#tryOnDisk(() => identity?.storeBearer(token));
      client.useToken(token);
      onToken?.(token);
    }
    log.info({ id: vm.id, role: vm.role, registry: client.url }, 'registered this VM');
    if (identity) await this.#sendHeartbeat();
  }

  async #sendHeartbeat(): Promise<HeartbeatResult> {
    const { client, vm, identity, health } = this.#options;
    const report = health?.();
    if ((!identity && !report) || !(await client.isVreg())) return client.heartbeat(vm.id);
    const proof = this.#tryOnDisk(() => identity && { ...identity.nextProof(), address: vm.address });
    const beat = await client.heartbeat(vm.id, { ...proof, ...(report ? { health: report } : {}) });
    // If that cannot be written, the same beat is said once more, and is taken.
    if (proof) this.#tryOnDisk(() => identity?.confirmProof());
    return beat;
  }

  /** A disk that is full must not make a VM stale: what cannot be kept is not said, and the beat is a plain one. */
  #tryOnDisk<T>(keep: () => T): T | undefined {
    try {
      const kept = keep();
      this.#diskWarned = false;
      return kept;
    } catch (error) {
      if (!hasCode(error, 'STORE_UNUSABLE')) throw error;
      const { log, vm } = this.#options;
      if (!this.#diskWarned) log.warn({ id: vm.id }, `${(error as Error).message}; beating without proof until it can`);
      this.#diskWarned = true;
      return undefined;
    }
  }

  /** The registry has other contents than those that this agent made: a backup's, or another registry's. */
  async #announceAgain(change: 'rolled back' | 'another registry'): Promise<void> {
    const { client, vm, log } = this.#options;
    const what =
      change === 'rolled back'
        ? `the registry was restored from an older copy: it is at revision ${client.server.revision} again`
        : 'another registry answers than before';
    log.warn({ id: vm.id, registry: client.url }, `${what}; telling it anew what this VM is`);
    // Somebody may have paused the VM after the copy was made, or before: only that it runs is sure.
    await this.#updateEntry({ unlessPaused: true });
  }

  async #updateEntry({ unlessPaused = false } = {}): Promise<void> {
    const { client, vm, log } = this.#options;
    const known = await client.get(vm.id);
    const changes = changedFields(known, vm);
    if (unlessPaused && known.status === 'paused') delete changes.status;
    if (Object.keys(changes).length > 0) await client.update(vm.id, changes);
    const fields = { id: vm.id, role: known.role, registry: client.url };
    log.info(fields, 'this VM was registered already; its entry is up to date');
    if (known.role !== vm.role)
      log.warn({ id: vm.id }, `the entry keeps its role ${known.role}: a role is given once, with the registration`);
  }
}

/** What has to change in an entry. Services and metadata that the agent was not told of are left as they are. */
function changedFields(known: Vm, { name, status, address, services, metadata }: Registration): VmUpdate {
  const wanted: VmUpdate = { name, status, address, ...(services && { services }), ...(metadata && { metadata }) };
  const changed = Object.entries(wanted).filter(
    ([field, value]) => JSON.stringify(value) !== JSON.stringify(known[field as keyof Vm]),
  );
  return Object.fromEntries(changed);
}

function hasCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof VregError && error.code === code;
}
