/** The tokens that the registry has made. They lie in the store as records, and in memory by their hash. */
import { timingSafeEqual } from 'node:crypto';
import { VregError } from '../../src/protocol/errors.ts';
import type { NewToken, TokenInfo, TokenRequest } from '../../src/protocol/token.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import type { PendingRecords } from '../registry/pending.ts';
import type { Contents, RecordChange, StoredRecord } from '../store/store.ts';
import { hashOf, newToken, type StoredToken, Token } from './token.ts';

/** Tokens at once, besides those of enrolled VMs: far above what anybody looks through. */
const MAX_MADE = 10_000;
/** Under this key a record says that a token was made once: from then on the registry asks for one, also without any left. */
const CLOSED = '';

/** A token on its way to the disk. */
export interface Born {
  secret: string;
  record: RecordChange;
  /** It is there, and so is the VM. @returns false when it is good for nothing, since it was revoked on its way */
  add(): boolean;
  /** Its VM could not be registered. */
  drop(): void;
}

/** A token that is not there yet, and can be revoked all the same. */
interface Birth {
  stored: StoredToken;
  isVoid: boolean;
  /** Resolves when it is on the disk, or will not get there. */
  settled: Promise<void>;
}

export interface TokensOptions {
  /** Records that are saved with the next beats, or by {@link flush}. */
  pending: PendingRecords;
  /** Saves them now. @throws the store's errors; then they go on waiting */
  flush(): Promise<void>;
  /** Wall clock, milliseconds since the epoch. */
  now(): number;
}

export class Tokens {
  readonly #byHash = new Map<string, Token>();
  readonly #byName = new Map<string, Token>();
  /** Those of enrolled VMs, by the VM's id. */
  readonly #ofVms = new Map<string, Token>();
  /** Names for which a token is on its way to the disk. */
  readonly #making = new Set<string>();
  readonly #births = new Set<Birth>();
  /** Those that are revoked, and not yet on the disk: by name, with the name of the enrol token that they were born of. */
  readonly #unsaved = new Map<string, string | undefined>();
  readonly #options: TokensOptions;
  #closed = false;

  constructor({ records, vms }: Pick<Contents, 'records' | 'vms'>, options: TokensOptions) {
    this.#options = options;
    const registrations = new Map(vms.map(({ id, created }) => [id, created]));
    for (const record of records) {
      if (record.kind !== 'token') continue;
      if (record.key === CLOSED) this.#closed = true;
      else this.#load(record, registrations);
    }
  }

  /** True once a token was made: whoever asks has to say who they are, and that stays so when all are revoked. */
  get isClosed(): boolean {
    return this.#closed;
  }

  /** Oldest first. */
  get list(): TokenInfo[] {
    const infos = [...this.#byName.values()].map(({ info }) => info);
    return infos.sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
  }

  /** The token, whether it has expired or not. */
  find(secret: string): Token | undefined {
    const hash = hashOf(secret);
    const token = this.#byHash.get(hash);
    // Nobody can choose a hash, so that the look-up tells nothing; the comparison is to tell nothing, either.
    return token && timingSafeEqual(Buffer.from(token.stored.hash), Buffer.from(hash)) ? token : undefined;
  }

  named(name: string): Token | undefined {
    return this.#byName.get(name);
  }

  /** Durable when this resolves. @throws VregError CONFLICT, TOO_MANY_REQUESTS, and the store's errors */
  async create(request: TokenRequest, by: string): Promise<NewToken> {
    const { name, expiresIn, ...rest } = request;
    if (this.#byName.has(name) || this.#making.has(name)) {
      throw new VregError('CONFLICT', `there is a token "${name}" already`, {
        field: 'name',
        hint: `choose another name, or revoke that one: vreg token revoke ${name}`,
      });
    }
    if (this.#byName.size - this.#ofVms.size + this.#making.size >= MAX_MADE) {
      throw new VregError('TOO_MANY_REQUESTS', `there are ${MAX_MADE} tokens already`, {
        field: 'name',
        hint: 'revoke those that nobody uses: vreg token ls',
      });
    }
    const now = this.#options.now();
    const { secret, stored } = newToken({
      name,
      ...rest,
      createdAt: new Date(now).toISOString(),
      createdBy: by,
      ...(expiresIn === undefined ? {} : { expiresAt: new Date(now + 1000 * expiresIn).toISOString() }),
    });
    this.#making.add(name);
    try {
      if (!this.#closed) this.#later(CLOSED_RECORD);
      await this.#now(recordOf(stored));
    } catch (error) {
      this.#later(removalOf(name));
      // Without a token nobody could come in any more.
      if (!this.#closed) this.#options.pending.drop(CLOSED_RECORD);
      throw error;
    } finally {
      this.#making.delete(name);
    }
    this.#closed = true;
    return { ...this.#add(stored).info, token: secret };
  }

  /**
   * From now on they are good for nothing, and what was opened with them ends, an enrolment for one; durable when this
   * resolves.
   * @returns the names of those that there were
   * @throws the store's errors; then they are revoked all the same, and that is saved as soon as it can be
   */
  revoke(tokens: Iterable<Token>): Promise<string[]> {
    const gone = [...tokens];
    return this.#revoke(gone, new Set(gone.map(({ name }) => name)));
  }

  /** As {@link revoke}: the one of that name, also when it is revoked already and that is not yet on the disk. */
  revokeNamed(name: string): Promise<string[]> {
    const token = this.#byName.get(name);
    return this.#revoke(token ? [token] : [], new Set([name]));
  }

  /** As {@link revoke}: the tokens of the VMs that an enrol token let in; also of one that is revoked by now. */
  revokeEnrolledBy(name: string): Promise<string[]> {
    const brood = [...this.#byName.values()].filter(({ stored }) => stored.enrolledBy === name);
    return this.#revoke(brood, new Set([name]));
  }

  /** @param enrollers whose enrolments that are under way come to nothing */
  async #revoke(tokens: readonly Token[], enrollers: ReadonlySet<string>): Promise<string[]> {
    const gone = tokens.filter(({ name }) => this.#byName.has(name));
    for (const token of gone) this.#forget(token);
    const births = [...this.#births].filter(({ stored }) => enrollers.has(stored.enrolledBy!));
    for (const birth of births) birth.isVoid = true;
    // What is on its way to the disk can be taken back when it is there.
    await Promise.all(births.map(({ settled }) => settled));
    for (const { stored } of [...gone, ...births]) this.#unsaved.set(stored.name, stored.enrolledBy);
    // Who asks once more is not told that it is done before it is.
    const unsaved = [...this.#unsaved].filter(
      ([name, enrolledBy]) => enrollers.has(name) || enrollers.has(enrolledBy ?? ''),
    );
    const names = unsaved.map(([name]) => name);
    if (names.length === 0) return [];
    await this.#now(...names.map(removalOf)).catch((error: unknown) => {
      throw notYetSaved(names, error);
    });
    for (const name of names) this.#unsaved.delete(name);
    return names;
  }

  /** Ends what is open for tokens that have expired. Called several times per second. */
  expire(): void {
    for (const token of this.#byName.values()) token.checkExpiry();
  }

  used(token: Token, from: string | undefined): void {
    if (token.used(from)) this.#later(recordOf(token.stored));
  }

  /**
   * The token that an enrolled VM gets: to be committed with its registration, and then to be added.
   * @param created revision of the VM's registration
   * @param from the address that asked
   */
  prepareBorn(enroller: Token, { id: vm, role }: Pick<Vm, 'id' | 'role'>, created: number, from?: string): Born {
    const { secret, stored } = newToken({
      name: `${enroller.name}/${vm}`,
      scope: 'write',
      vm,
      // A worker's image lets no infra VM in, not even later.
      role,
      createdAt: new Date(this.#options.now()).toISOString(),
      createdBy: enroller.name,
      enrolledBy: enroller.name,
      created,
      ...(from ? { enrolledFrom: from } : {}),
    });
    const record = recordOf(stored);
    this.#options.pending.drop(record);
    let settle = () => {};
    const birth: Birth = { stored, isVoid: false, settled: new Promise((resolve) => (settle = resolve)) };
    this.#births.add(birth);
    const end = () => {
      this.#births.delete(birth);
      settle();
    };
    const drop = () => {
      end();
      // What was not queued because of this one.
      const token = this.#byName.get(stored.name);
      this.#later(token ? recordOf(token.stored) : removalOf(stored.name));
    };
    const add = () => {
      end();
      if (birth.isVoid) return false;
      const before = this.#ofVms.get(vm);
      if (before) this.#forget(before);
      this.#add(stored);
      // A revocation of the token before this one may have been saved meanwhile.
      this.#later(recordOf(stored));
      return true;
    };
    return { secret, record, add, drop };
  }

  /** The token of an enrolled VM. */
  ofVm(id: string): Token | undefined {
    return this.#ofVms.get(id);
  }

  /** The VM is gone, and with it the token that it was let in with: it can come back as it came. */
  forgetVm(id: string): void {
    const token = this.#ofVms.get(id);
    if (!token) return;
    this.#forget(token);
    this.#later(removalOf(token.name));
  }

  /** What is said of a name whose next token is on its way to the disk would get there behind it, in its place. */
  #later(change: RecordChange): void {
    const isOld = [...this.#births].some(({ stored }) => stored.name === change.key);
    if (!isOld) this.#options.pending.add(change);
  }

  async #now(...changes: RecordChange[]): Promise<void> {
    for (const change of changes) this.#options.pending.add(change);
    await this.#options.flush();
  }

  #load(record: StoredRecord, registrations: ReadonlyMap<string, number>): void {
    const stored = parseStored(record.body);
    // A VM's removal is durable before that of its token: a kill between the two leaves one that is nobody's.
    const isOrphan = stored.enrolledBy !== undefined && registrations.get(stored.vm!) !== stored.created;
    if (isOrphan) this.#later(removalOf(stored.name));
    else this.#add(stored);
  }

  #add(stored: StoredToken): Token {
    this.#unsaved.delete(stored.name);
    const token = new Token(stored, this.#options.now);
    this.#byHash.set(stored.hash, token);
    this.#byName.set(stored.name, token);
    if (stored.enrolledBy !== undefined) this.#ofVms.set(stored.vm!, token);
    return token;
  }

  #forget(token: Token): void {
    const { hash, name, enrolledBy, vm } = token.stored;
    this.#byHash.delete(hash);
    this.#byName.delete(name);
    if (enrolledBy !== undefined && this.#ofVms.get(vm!) === token) this.#ofVms.delete(vm!);
    token.revoke();
  }
}

/** Data dirs written before the first release have `bornOf` instead of `enrolledBy`. */
function parseStored(body: string): StoredToken {
  const { bornOf, ...stored } = JSON.parse(body) as StoredToken & { bornOf?: string };
  return bornOf === undefined ? stored : { ...stored, enrolledBy: bornOf };
}

const CLOSED_RECORD: RecordChange = { kind: 'token', key: CLOSED, body: '{}' };

function recordOf(stored: StoredToken): RecordChange {
  return { kind: 'token', key: stored.name, body: JSON.stringify(stored) };
}

function removalOf(name: string): RecordChange {
  return { kind: 'token', key: name, body: undefined };
}

function notYetSaved(names: readonly string[], error: unknown): unknown {
  if (!(error instanceof VregError)) return error;
  const { code, message, hint, retryAfter } = error;
  return new VregError(
    code,
    `revoked now, but not on the disk, so that a restart would undo it: ${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''} (${message})`,
    { ...(hint ? { hint } : {}), ...(retryAfter === undefined ? {} : { retryAfter }), cause: error },
  );
}

/** @throws VregError NOT_FOUND */
export function noSuchToken(name: string): VregError {
  return new VregError('NOT_FOUND', `there is no token "${name}"`, { field: 'name', hint: 'see them: vreg token ls' });
}
