/**
 * Proof of a VM's identity: a chain of single-use tokens in a file. Each heartbeat spends one token and contains the next. A
 * copy of the file or of the entire VM has the same token, and only one of the two can spend it.
 */
import { createHash } from 'node:crypto';
import { closeSync, fchmodSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { looseMode, writeAtomically } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { type AgentHeartbeat, isToken } from '../../src/protocol/heartbeat.ts';
import { withLock } from '../process/file-lock.ts';
import { kernelRandomHex } from '../process/random.ts';
import {
  adopt,
  type DueReport,
  follow,
  type HeartbeatAnswer,
  type History,
  isAlternating,
  isHistory,
  observe,
  positionsOf,
} from './history.ts';

/** The stored state of one VM. */
export interface IdentityState {
  vm: string;
  /** Random id of the agent's last incarnation. */
  incarnation?: string;
  /** The last token that the registry accepted. */
  token?: string;
  /** Time at which the registry accepted {@link token}, in milliseconds since the epoch. Absent in the states of earlier versions. */
  provenAt?: number;
  /**
   * The token that follows {@link token}, if it was sent but not confirmed. If it is sent again, it counts as the same
   * heartbeat.
   */
  next?: string;
  /** The history of the registry that responded last. States from before the first release have other fields here. */
  registry?: History;
  /** The id under which this VM continues after it was found to be a clone. */
  rebornAs?: string;
  /** The VM from which this one was cloned. */
  parent?: string;
  /** The registry has rejected the last proof, because another incarnation holds the identity. */
  isRefused?: true;
  /** The bearer token that the registry issued when this VM enrolled. */
  bearer?: string;
  /** The bearer token before that one. It remains valid in the other registry if two registries respond in turn. */
  otherBearer?: string;
}

export interface IdentityStore {
  /** @throws VregError STORE_UNUSABLE if the state exists and cannot be read */
  read(vm: string): IdentityState;
  /** Writes durably. @throws VregError STORE_UNUSABLE */
  write(state: IdentityState): void;
}

export interface IdentityOptions {
  /** Continues the last incarnation, for a process that sends one heartbeat and exits. */
  resume?: boolean;
  /** Called if a file is damaged, so the VM starts without its state, or if other users could read a file. */
  onWarning?: (message: string) => void;
  /** Milliseconds since the epoch. Default: the wall clock. */
  now?: () => number;
}

/** Number of random bytes in a token: 128 bits cannot be guessed. */
const TOKEN_BYTES = 16;
/** Number of random bytes in an incarnation id, which only has to be unique. */
const INCARNATION_BYTES = 8;
/** State before the first response with a position. */
const NO_HISTORY: History = {};

export class Identity {
  readonly id: string;
  /** Random id of this incarnation of the agent. */
  readonly incarnation: string;
  readonly #store: IdentityStore;
  readonly #now: () => number;
  #state: IdentityState;
  #takesOver = false;
  /** The last proof that the registry accepted. */
  #accepted: AgentHeartbeat | undefined;

  private constructor(store: IdentityStore, state: IdentityState, incarnation: string, now: () => number) {
    this.#store = store;
    this.#now = now;
    this.#state = state;
    this.id = state.vm;
    this.incarnation = incarnation;
  }

  /**
   * Opens the identity of a VM under its configured id or, for a clone, under the id that it received.
   * @param where a folder, or another store
   * @throws VregError STORE_UNUSABLE if the state cannot be read
   */
  static open(
    where: string | IdentityStore,
    id: string,
    { resume = false, onWarning, now = Date.now }: IdentityOptions = {},
  ): Identity {
    const store = typeof where === 'string' ? fileStore(where, onWarning) : where;
    const state = currentState(store, id);
    const incarnation = (resume ? state.incarnation : undefined) ?? kernelRandomHex(INCARNATION_BYTES);
    return new Identity(store, { ...state, incarnation }, incarnation, now);
  }

  /** True if the VM has proved its identity before. Then it does so again before any other request. */
  get hasToken(): boolean {
    return this.#state.token !== undefined || this.#state.next !== undefined;
  }

  /** True if a vreg registry has responded to this VM before. */
  get knowsRegistry(): boolean {
    return this.#state.registry !== undefined;
  }

  /** True if a registry has accepted this VM before: it has confirmed a proof, or issued a bearer token. */
  get wasAccepted(): boolean {
    const { token, registry, bearer } = this.#state;
    return token !== undefined || registry !== undefined || bearer !== undefined;
  }

  /** The VM from which this one was cloned, if it is a clone. */
  get parent(): string | undefined {
    return this.#state.parent;
  }

  /** The VM's own bearer token, if it has enrolled. */
  get bearer(): string | undefined {
    return this.#state.bearer;
  }

  /** The bearer token that was replaced last. */
  get otherBearer(): string | undefined {
    return this.#state.otherBearer;
  }

  /**
   * Stores the VM's own bearer token, and retains the one that it replaces. If the write fails, both are only kept in memory.
   * @throws VregError STORE_UNUSABLE
   */
  storeBearer(bearer: string): void {
    const { bearer: otherBearer, ...state } = this.#state;
    this.#state = { ...state, bearer, ...(otherBearer === undefined ? {} : { otherBearer }) };
    this.#save(this.#state);
  }

  /** Removes the VM's own bearer tokens. @throws VregError STORE_UNUSABLE */
  dropBearers(): void {
    const { bearer: _bearer, otherBearer: _other, ...state } = this.#state;
    this.#save(state);
  }

  /**
   * Creates the proof for the next heartbeat and stores it before it is sent. The chain of tokens continues whatever happens to
   * the entry in the registry, because a registry that is restored later must not mistake this VM for an older incarnation.
   * A proof that was sent and not confirmed is already stored, so it can be repeated on a full disk.
   * @throws VregError STORE_UNUSABLE
   */
  nextProof(): AgentHeartbeat {
    const { token } = this.#state;
    const next = this.#state.next ?? `${this.#nextNumber(token)}.${kernelRandomHex(TOKEN_BYTES)}`;
    if (this.#state.next === undefined) this.#save({ ...this.#state, next });
    return {
      next,
      incarnation: this.incarnation,
      ...(token === undefined ? {} : { spend: token }),
      ...(this.#takesOver ? { replace: true } : {}),
    };
  }

  /**
   * The last proof that was stored and accepted, to repeat while the disk cannot store another one. The registry accepts a
   * repetition as the same heartbeat, so it needs no write. Undefined before the first one.
   */
  get repeatedProof(): AgentHeartbeat | undefined {
    return this.#accepted;
  }

  /** Records that the registry accepted the last proof, and saves what {@link observe} has learned. @throws VregError STORE_UNUSABLE */
  confirmProof(): void {
    const { next, isRefused: _refused, ...state } = this.#state;
    this.#takesOver = false;
    if (next === undefined) return;
    const { token } = state;
    this.#accepted = { next, incarnation: this.incarnation, ...(token === undefined ? {} : { spend: token }) };
    this.#save({ ...state, token: next, provenAt: this.#now() });
  }

  /** Records that the registry rejected the last proof, for `vreg whoami` and `vreg mcp`. @throws VregError STORE_UNUSABLE */
  refuseProof(): void {
    if (!this.#state.isRefused) this.#save({ ...this.#state, isRefused: true });
  }

  /**
   * Makes the next proof take over the identity from the incarnation that holds it.
   * @throws VregError STORE_UNUSABLE
   */
  takeOver(): void {
    const { next: _next, isRefused: _refused, ...state } = this.#state;
    this.#takesOver = true;
    this.#accepted = undefined;
    this.#save(state);
  }

  /** Gives this VM, which is a clone, another id, which later starts also use. @throws VregError STORE_UNUSABLE */
  rebirth(id: string): Identity {
    // Write the new state first: after a crash between the two writes, the clone is detected again. The incarnation stays the
    // same, so that the registry can match the new id to the conflict.
    const { incarnation } = this;
    const renamed = new Identity(this.#store, { vm: id, parent: this.id, incarnation }, incarnation, this.#now);
    renamed.#save(renamed.#state);
    this.#save({ ...this.#state, rebornAs: id });
    return renamed;
  }

  /** The registry positions to report in the next heartbeat. */
  get positions(): ReturnType<typeof positionsOf> {
    return positionsOf(this.#history, this.#now());
  }

  /** Whether two registries have recently responded in turn; see history.ts. */
  get isAlternating(): boolean {
    return isAlternating(this.#history, this.#now());
  }

  /** Whether the last response to a heartbeat came from a registry with another history. */
  get isAway(): boolean {
    return this.#history.isAway === true;
  }

  /**
   * Evaluates the response to a heartbeat with {@link positions}. {@link confirmProof} saves the result.
   * @param lease in milliseconds @returns the work that is due
   */
  observe(answer: HeartbeatAnswer, lease: number): DueReport {
    const { due, after } = observe(this.#history, answer, { at: this.#now(), lease });
    if (after !== this.#history) this.#state = { ...this.#state, registry: after };
    return due;
  }

  /**
   * Adopts the position of the response that has acknowledged a report or a comparison.
   * @param position undefined if a proxy has removed it
   * @throws VregError STORE_UNUSABLE; the position is adopted in memory then
   */
  adopt(position: string | undefined): void {
    this.#state = { ...this.#state, registry: adopt(this.#history, position, this.#now()) };
    this.#save(this.#state);
  }

  /**
   * Moves to the position of the response that has acknowledged a change of the VM's entry.
   * @throws VregError STORE_UNUSABLE; the position is adopted in memory then
   */
  follow(position: string | undefined): void {
    const after = follow(this.#history, position);
    if (after.position === this.#history.position) return;
    this.#state = { ...this.#state, registry: after };
    this.#save(this.#state);
  }

  get #history(): History {
    return this.#state.registry ?? NO_HISTORY;
  }

  /**
   * A new chain starts with the time in milliseconds. No agent sends a thousand heartbeats per second, so the new numbers are
   * higher than those of a chain that was lost with the state.
   */
  #nextNumber(token: string | undefined): number {
    return token === undefined ? Math.max(1, this.#now()) : Number.parseInt(token, 10) + 1;
  }

  #save(state: IdentityState): void {
    this.#store.write(state);
    this.#state = state;
  }
}

/**
 * Reads the states of a VM for programs other than the agent: that of the id and, for a clone, those of the ids under which it
 * continued. The last one is the current state.
 * @returns one state with only the id if no agent has stored one
 * @throws VregError STORE_UNUSABLE if a state cannot be read
 */
export function readIdentityStates(dir: string, id: string): IdentityState[] {
  return statesOf(fileStore(dir, undefined), id);
}

function currentState(store: IdentityStore, id: string): IdentityState {
  return statesOf(store, id).at(-1)!;
}

function statesOf(store: IdentityStore, id: string): IdentityState[] {
  const states: IdentityState[] = [];
  const seen = new Set<string>();
  for (let vm = id; ; ) {
    const state = store.read(vm);
    states.push(state);
    if (state.rebornAs === undefined || seen.has(vm)) return states;
    seen.add(vm);
    vm = state.rebornAs;
  }
}

/**
 * Runs `work` while no other process reads or changes the state of this VM: two of them would spend the same token, and the registry
 * would consider one of them a clone.
 * @param id the configured id
 * @throws VregError BUSY as {@link withLock}, and the errors of `work`
 */
export function withIdentityLock<T>(dir: string, id: string, work: () => Promise<T>): Promise<T> {
  return withLock(statePath(dir, id).replace(/json$/, 'lock'), work);
}

/** Stores the state of each VM in its own file, which only the owner can read. */
function fileStore(dir: string, onWarning: IdentityOptions['onWarning']): IdentityStore {
  return { read: (vm) => readState(dir, vm, onWarning), write: (state) => writeState(dir, state) };
}

function writeState(dir: string, state: IdentityState): void {
  const path = statePath(dir, state.vm);
  try {
    writeAtomically(path, `${JSON.stringify(state)}\n`, { mode: 0o600, sync: true });
  } catch (cause) {
    throw unusableFile('write', path, cause as NodeJS.ErrnoException);
  }
}

function readState(dir: string, vm: string, onWarning?: (message: string) => void): IdentityState {
  const path = statePath(dir, vm);
  let text: string;
  try {
    const file = openSync(path, 'r');
    try {
      restrictToOwner(file, path, onWarning);
      text = readFileSync(file, 'utf8');
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    if (cause instanceof VregError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return { vm };
    throw unusableFile('read', path, cause as NodeJS.ErrnoException);
  }
  try {
    const state = JSON.parse(text) as IdentityState;
    if (isState(state) && state.vm === vm) return state;
  } catch {
    // Falls through to the warning.
  }
  onWarning?.(`${path} is damaged: VM "${vm}" starts without its identity state`);
  return { vm };
}

/**
 * Restricts the file to its owner and warns. A copied file may have lost its mode. Refusing to start would make the VM stale
 * without protecting secrets that may already have been read.
 * @throws VregError STORE_UNUSABLE if the mode cannot be changed
 */
function restrictToOwner(file: number, path: string, onWarning?: (message: string) => void): void {
  const mode = looseMode(fstatSync(file).mode);
  if (mode === undefined) return;
  try {
    fchmodSync(file, 0o600);
  } catch (cause) {
    throw new VregError(
      'STORE_UNUSABLE',
      `${path} contains secrets of this VM and can be read by other users (mode ${mode})`,
      {
        hint: `chmod 600 ${path}`,
        cause,
      },
    );
  }
  onWarning?.(exposedSecret(path, mode));
}

/**
 * The warning about a readable file with secrets of this VM.
 * @param mode in octal, before the file was restricted to its owner
 */
export function exposedSecret(path: string, mode: string): string {
  return `${path} could be read by other users (mode ${mode}) and has been restricted to its owner; if the token may have leaked, revoke it: vreg token revoke`;
}

/** Rejects a state that vreg did not write, because the registry would refuse each of its heartbeats. */
function isState(state: IdentityState | null): state is IdentityState {
  if (typeof state !== 'object' || state === null) return false;
  const { token, next, registry, bearer, otherBearer } = state;
  return (
    [token, next].every((text) => text === undefined || isToken(text)) &&
    isHistory(registry) &&
    [bearer, otherBearer].every((text) => ['undefined', 'string'].includes(typeof text)) &&
    ['undefined', 'number'].includes(typeof state.provenAt)
  );
}

function unusableFile(action: 'read' | 'write', path: string, cause: NodeJS.ErrnoException): VregError {
  return new VregError('STORE_UNUSABLE', `cannot ${action} ${path} (${cause.code})`, {
    hint: `check the owner, the mode and the free space of its folder: ls -ld ${dirname(path)}; df ${dirname(path)}`,
    cause,
  });
}

/** The file name is a digest of the id, which may contain characters that are not allowed in file names. */
function statePath(dir: string, vm: string): string {
  return join(dir, `identity-${createHash('sha256').update(vm).digest('hex').slice(0, 16)}.json`);
}
