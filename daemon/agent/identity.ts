/**
 * Who this VM is, as its agent can prove it: a chain of single-use tokens in a file. Each beat spends one and names the
 * next. A copy of the file, or of the whole VM, holds the same token, and only one of the two can spend it.
 */
import { createHash } from 'node:crypto';
import { closeSync, fchmodSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { RegistryClient } from '../../src/client.ts';
import { looseMode, writeAtomically } from '../../src/files.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { type AgentBeat, isToken } from '../../src/protocol/heartbeat.ts';
import { kernelRandomHex } from '../process/random.ts';

/** What is remembered of a VM. */
export interface IdentityState {
  vm: string;
  /** The last life of the agent. */
  incarnation?: string;
  /** The token that the registry took last. */
  token?: string;
  /** The one that was sent after it, whose answer has not come: sent again, it is the same beat. */
  next?: string;
  /** The registry that was spoken to, and the highest revision seen of it. */
  registry?: { id: string; revision: number };
  /** The VM found out that it is a clone, and lives on under this id. */
  rebornAs?: string;
  /** The VM that this one was a clone of. */
  parent?: string;
  /** The bearer token that the registry gave to this VM when it was enrolled. */
  bearer?: string;
}

/** Where states are kept. */
export interface IdentityStore {
  /** @throws VregError STORE_UNUSABLE when there is something that cannot be read */
  read(vm: string): IdentityState;
  /** Durable when it returns. @throws VregError STORE_UNUSABLE */
  write(state: IdentityState): void;
}

export interface IdentityOptions {
  /** A process that lives for one beat goes on with the life of the one before it. */
  resume?: boolean;
  /** Told when a file is damaged: the VM has lost its state, and goes on without. And when others could read it. */
  onWarning?: (message: string) => void;
}

/** Bytes of a token, and of an incarnation's name. */
const TOKEN_BYTES = 16;
const INCARNATION_BYTES = 8;

/** What an answer says of the registry besides its body. */
export type RegistryChange = 'same' | 'rolled back' | 'another registry';

export class Identity {
  readonly id: string;
  /** Name of this life of the agent. */
  readonly incarnation: string;
  readonly #store: IdentityStore;
  #state: IdentityState;
  #takesOver = false;

  private constructor(store: IdentityStore, state: IdentityState, incarnation: string) {
    this.#store = store;
    this.#state = state;
    this.id = state.vm;
    this.incarnation = incarnation;
  }

  /**
   * The identity of a VM: under its own id, or the one it was reborn under.
   * @param where a folder, or another place where states are kept
   * @throws VregError STORE_UNUSABLE when its file cannot be read
   */
  static open(
    where: string | IdentityStore,
    id: string,
    { resume = false, onWarning }: IdentityOptions = {},
  ): Identity {
    const store = typeof where === 'string' ? fileStore(where, onWarning) : where;
    const seen = new Set<string>();
    for (let vm = id; ; ) {
      const state = store.read(vm);
      if (state.rebornAs === undefined || seen.has(vm)) {
        const incarnation = (resume ? state.incarnation : undefined) ?? kernelRandomHex(INCARNATION_BYTES);
        return new Identity(store, { ...state, incarnation }, incarnation);
      }
      seen.add(vm);
      vm = state.rebornAs;
    }
  }

  /** True when it has proved itself before: then it does so before it says anything else. */
  get hasToken(): boolean {
    return this.#state.token !== undefined || this.#state.next !== undefined;
  }

  /** The VM that this one is a clone of, if it was reborn. */
  get parent(): string | undefined {
    return this.#state.parent;
  }

  /** The bearer token that is this VM's own, if it was enrolled. */
  get bearer(): string | undefined {
    return this.#state.bearer;
  }

  /** Keeps it, in memory also when it throws. @throws VregError STORE_UNUSABLE */
  storeBearer(bearer: string): void {
    this.#state = { ...this.#state, bearer };
    this.#save(this.#state);
  }

  /** It is of no use any more. @throws VregError STORE_UNUSABLE */
  dropBearer(): void {
    const { bearer: _bearer, ...state } = this.#state;
    this.#save(state);
  }

  /** What a beat says; on the disk before it is sent. @throws VregError STORE_UNUSABLE */
  nextProof(): AgentBeat {
    const { token, registry } = this.#state;
    const next = this.#state.next ?? `${sequenceOf(token) + 1}.${kernelRandomHex(TOKEN_BYTES)}`;
    this.#save({ ...this.#state, next });
    return {
      next,
      incarnation: this.incarnation,
      ...(token === undefined ? {} : { spend: token }),
      ...(registry ? { revision: registry.revision } : {}),
      ...(this.#takesOver ? { replace: true } : {}),
    };
  }

  /** The registry took the last beat. @throws VregError STORE_UNUSABLE */
  confirmProof(): void {
    const { next, ...state } = this.#state;
    this.#takesOver = false;
    if (next !== undefined) this.#save({ ...state, token: next });
  }

  /** The registry knows no such VM, so it will take any token. */
  resetChain(): void {
    const { token: _token, next: _next, ...state } = this.#state;
    this.#save(state);
  }

  /** The next beat takes the identity over, whoever holds it. */
  takeOver(): void {
    const { next: _next, ...state } = this.#state;
    this.#takesOver = true;
    this.#save(state);
  }

  /** This VM is a clone: from now on it is another, also after a restart. @throws VregError STORE_UNUSABLE */
  rebirth(id: string): Identity {
    // The new one first: a crash between the two leaves a clone that finds out again.
    // It is the same life, so that the registry knows whose it was.
    const { incarnation } = this;
    const reborn = new Identity(this.#store, { vm: id, parent: this.id, incarnation }, incarnation);
    reborn.#save(reborn.#state);
    this.#save({ ...this.#state, rebornAs: id });
    return reborn;
  }

  /** Remembers which registry answered, and says whether it is the one of before, and not an older copy of it. */
  compareRegistry({ registryId, revision }: Pick<RegistryClient['server'], 'registryId' | 'revision'>): RegistryChange {
    if (registryId === undefined || revision === undefined) return 'same';
    const before = this.#state.registry;
    // Saved with the next beat: a revision more or less is no matter.
    this.#state = { ...this.#state, registry: { id: registryId, revision } };
    if (before && before.id !== registryId) return 'another registry';
    return before && before.revision > revision ? 'rolled back' : 'same';
  }

  #save(state: IdentityState): void {
    this.#store.write(state);
    this.#state = state;
  }
}

/** One file a VM, for its owner only. */
function fileStore(dir: string, onWarning: IdentityOptions['onWarning']): IdentityStore {
  return { read: (vm) => readState(dir, vm, onWarning), write: (state) => writeState(dir, state) };
}

function writeState(dir: string, state: IdentityState): void {
  const path = statePath(dir, state.vm);
  try {
    writeAtomically(path, `${JSON.stringify(state)}\n`, { mode: 0o600, sync: true });
  } catch (cause) {
    throw unusableFile(path, 'written', cause as NodeJS.ErrnoException);
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
    throw unusableFile(path, 'read', cause as NodeJS.ErrnoException);
  }
  try {
    const state = JSON.parse(text) as IdentityState;
    if (isState(state) && state.vm === vm) return state;
  } catch {
    // Told below.
  }
  onWarning?.(`${path} is damaged: VM "${vm}" has lost its state, and begins anew`);
  return { vm };
}

/**
 * A file that was copied may have lost its mode. An agent that ended for that would leave the registry without its VM, and
 * what was read is read: so it is told, and mended.
 * @throws VregError STORE_UNUSABLE when it cannot be
 */
function restrictToOwner(file: number, path: string, onWarning?: (message: string) => void): void {
  const mode = looseMode(fstatSync(file).mode);
  if (mode === undefined) return;
  const what = `${path} can be read by others (mode ${mode})`;
  try {
    fchmodSync(file, 0o600);
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `${what}, and holds the secrets of this VM`, {
      hint: `chmod 600 ${path}`,
      cause,
    });
  }
  onWarning?.(`${what}; it is closed now, but revoke this VM's token if somebody may have it: vreg token revoke`);
}

/** A state that was written by somebody else would be refused by the registry with every beat. */
function isState(state: IdentityState | null): state is IdentityState {
  if (typeof state !== 'object' || state === null) return false;
  const { token, next, registry, bearer } = state;
  return (
    [token, next].every((text) => text === undefined || isToken(text)) &&
    Number.isSafeInteger(registry?.revision ?? 0) &&
    ['undefined', 'string'].includes(typeof bearer)
  );
}

function unusableFile(path: string, what: string, cause: NodeJS.ErrnoException): VregError {
  return new VregError('STORE_UNUSABLE', `${path} cannot be ${what} (${cause.code})`, {
    hint: 'check its folder: owner, mode and room',
    cause,
  });
}

/** An id may hold what a file name must not. */
function statePath(dir: string, vm: string): string {
  return join(dir, `identity-${createHash('sha256').update(vm).digest('hex').slice(0, 16)}.json`);
}

function sequenceOf(token: string | undefined): number {
  return token === undefined ? 0 : Number.parseInt(token, 10);
}
