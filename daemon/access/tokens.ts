/**
 * The tokens that the registry has issued. They are stored as records under their names, and looked up in memory by their
 * hashes. Creation, revocation and enrolment go through the group commit, in sequence with VM changes. Only the last use of a
 * token is saved lazily, with the next heartbeats.
 */
import { timingSafeEqual } from 'node:crypto';
import { limitReached, VregError } from '../../src/protocol/errors.ts';
import type { Position } from '../../src/protocol/position.ts';
import type { NewToken, TokenInfo, TokenRequest } from '../../src/protocol/token.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import type { RecordQueue } from '../registry/record-queue.ts';
import type { Attachment } from '../registry/writes.ts';
import type { Contents, RecordChange, StoredRecord } from '../store/store.ts';
import { hashOf, newToken, parseStored, recordOf, removalOf, type StoredToken } from './stored-token.ts';
import { Token } from './token.ts';
import { expired, notYetDurable } from './token-errors.ts';

/** Maximum number of tokens, excluding those of enrolled VMs: far more than people can review. */
const MAX_CREATED = 10_000;
/**
 * Key of the record that marks the registry as closed: once a token has been created, every client needs one, even after all
 * are revoked.
 */
const CLOSED = '';
const CLOSED_RECORD: RecordChange = { kind: 'token', key: CLOSED, body: '{}' };

/** A token whose record is being committed. Until then, nothing else may save the same record. */
interface PendingToken {
  readonly stored: StoredToken;
  /** The token was revoked before it was durable, so it never becomes valid. */
  isRevoked: boolean;
  /** The revocation of an earlier token with the same name, if it was not durable yet. The new record replaces it. */
  readonly dropped: RecordChange | undefined;
}

/** A token for a VM that is enrolling. */
export interface IssuedToken {
  secret: string;
  /** Commits the token with the VM's registration. */
  attachment: Attachment;
  /** True if the token was revoked while it was being committed. */
  isRevoked(): boolean;
}

export interface TokensOptions {
  /** Records in this queue are saved with the next heartbeats. Receives the last uses of tokens. */
  queue: RecordQueue;
  /** Revocations that are not durable yet. The registry commits them again until they are. */
  revocations: RecordQueue;
  /**
   * Commits token records as a separate change, in order with VM changes.
   * @param assertActive as in `WriteOptions`
   * @throws the store's errors, and those of `assertActive`
   */
  commit(records: readonly RecordChange[], by: string, assertActive?: () => void): Promise<void>;
  /** Revision of the registration of a VM; undefined if it is not registered. */
  registrationOf(id: string): number | undefined;
  /** Wall clock, milliseconds since the epoch. */
  now(): number;
  /** Called when another replica has created the first token. */
  closed?(): void;
}

export class Tokens {
  readonly #byHash = new Map<string, Token>();
  readonly #byName = new Map<string, Token>();
  /** Tokens of enrolled VMs, by the id of the VM. */
  readonly #byVm = new Map<string, Token>();
  /** Tokens that can expire. */
  readonly #expiring = new Set<Token>();
  readonly #pending = new Set<PendingToken>();
  /** Names of tokens whose change is being committed together with a change of their VM. */
  readonly #committing = new Set<string>();
  readonly #options: TokensOptions;
  #closed = false;

  constructor({ records }: Pick<Contents, 'records'>, options: TokensOptions) {
    this.#options = options;
    for (const record of records) {
      if (record.kind !== 'token') continue;
      if (record.key === CLOSED) this.#closed = true;
      else this.#load(record);
    }
  }

  /** True once a token has been created. Then every client needs a token, even after all tokens are revoked. */
  get isClosed(): boolean {
    return this.#closed;
  }

  /** All tokens, oldest first. */
  get list(): TokenInfo[] {
    const infos = [...this.#byName.values()].map(({ info }) => info);
    return infos.sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
  }

  /** The token with this secret, even if it has expired. @param hash of the secret, if it is known */
  find(secret: string, hash = hashOf(secret)): Token | undefined {
    const token = this.#byHash.get(hash);
    // The time of the lookup reveals nothing, because an attacker cannot choose a hash. The comparison must not reveal anything
    // either.
    return token && timingSafeEqual(Buffer.from(token.stored.hash), Buffer.from(hash)) ? token : undefined;
  }

  named(name: string): Token | undefined {
    return this.#byName.get(name);
  }

  /** The token of an enrolled VM. */
  ofVm(id: string): Token | undefined {
    return this.#byVm.get(id);
  }

  /** Aborts {@link Token.revoked} of tokens that have expired. Called several times per second. */
  expire(): void {
    for (const token of this.#expiring) this.#checkExpiry(token);
  }

  /** @throws VregError UNAUTHORIZED if the token has expired */
  assertNotExpired(token: Token): void {
    this.#checkExpiry(token);
    if (token.isExpired()) throw expired(token.info);
  }

  #checkExpiry(token: Token): void {
    if (token.checkExpiry() && !this.#isChanging(token.name)) this.#options.queue.add(recordOf(token.stored));
  }

  /** Records a use of a token, which is saved with the next heartbeats. */
  used(token: Token, from: string | undefined): void {
    if (token.use(from) && !this.#isChanging(token.name)) this.#options.queue.add(recordOf(token.stored));
  }

  /**
   * Creates a token, which is durable when this resolves.
   * @param assertActive as in `WriteOptions`
   * @throws VregError CONFLICT, TOO_MANY_REQUESTS, the store's errors, and those of `assertActive`
   */
  async create(request: TokenRequest, by: string, assertActive?: () => void): Promise<NewToken> {
    const { name, expiresIn, ...rest } = request;
    if (this.#byName.has(name) || this.#isChanging(name)) {
      throw new VregError('CONFLICT', `token "${name}" already exists`, {
        field: 'name',
        hint: `choose another name, or revoke that token: vreg token revoke ${name}`,
      });
    }
    const creating = [...this.#pending].filter(({ stored }) => stored.enrolledBy === undefined).length;
    if (this.#byName.size - this.#byVm.size + creating >= MAX_CREATED) {
      throw limitReached('tokens', MAX_CREATED, { field: 'name', hint: 'revoke unused tokens: vreg token ls' });
    }
    const now = this.#options.now();
    const { secret, stored } = newToken({
      name,
      ...rest,
      createdAt: new Date(now).toISOString(),
      createdBy: by,
      ...(expiresIn === undefined ? {} : { expiresAt: new Date(now + 1000 * expiresIn).toISOString() }),
    });
    const pending = this.#begin(stored);
    try {
      const records = this.#closed ? [recordOf(stored)] : [CLOSED_RECORD, recordOf(stored)];
      await this.#options.commit(records, by, assertActive);
    } catch (error) {
      this.#rollBack(pending);
      throw error;
    }
    this.#pending.delete(pending);
    this.#closed = true;
    return { ...this.#add(stored).info, token: secret };
  }

  /**
   * Revokes the token with this name, and cancels enrolments in progress that use or issue it. Open responses end immediately.
   * The revocation is durable when this resolves.
   * @returns the names of the revoked tokens; none if there is no such token
   * @throws the store's errors; the tokens are nevertheless revoked, and the revocation is saved as soon as possible
   */
  revoke(name: string, by: string): Promise<string[]> {
    const token = this.#byName.get(name);
    return this.#revoke(name, token ? [token] : [], by);
  }

  /** Same as {@link revoke}, for the tokens of all VMs that enrolled with a token, even if that token is already revoked. */
  revokeEnrolledBy(name: string, by: string): Promise<string[]> {
    const issuedTokens = [...this.#byName.values()].filter(({ stored }) => stored.enrolledBy === name);
    return this.#revoke(name, issuedTokens, by);
  }

  async #revoke(name: string, tokens: readonly Token[], by: string): Promise<string[]> {
    const { queue, revocations, commit } = this.#options;
    const canceled = [...this.#pending].filter(
      ({ stored }) => stored.enrolledBy === name || (stored.enrolledBy !== undefined && stored.name === name),
    );
    for (const pending of canceled) pending.isRevoked = true;
    const revoked = [...tokens, ...canceled.map(({ stored }) => stored)].map((token) => token.name);
    // Also revokes the token of an earlier enrolment that a canceled one repeats, because they have the same record.
    for (const token of revoked) this.#forget(this.#byName.get(token));
    // A repeated request must not succeed before an earlier revocation of the same tokens is durable.
    const names = [...new Set([...revoked, ...this.#unsavedRemovals(name)])];
    if (names.length === 0) return [];
    const removals = names.map(removalOf);
    for (const removal of removals) {
      queue.drop(removal);
      revocations.add(removal);
    }
    await commit(removals, by).catch((error: unknown) => {
      throw notYetDurable(names, error);
    });
    revocations.saved(removals);
    return names;
  }

  /** Names of revoked tokens whose revocation is not durable yet: this token, and the tokens that were issued with it. */
  #unsavedRemovals(name: string): string[] {
    const names = this.#options.revocations.changes.map(({ key }) => key);
    return names.filter((key) => key === name || key.startsWith(issuedName(name, '')));
  }

  /**
   * Issues a token for a VM that is enrolling. It is committed with the registration of the VM.
   * @param created revision of the VM's registration; 0 if it is that of the change
   * @param from network address of the client
   * @throws VregError UNAUTHORIZED if the token of the enrolment was revoked
   */
  issue(enroller: Token, { id: vm, role }: Pick<Vm, 'id' | 'role'>, created: number, from?: string): IssuedToken {
    enroller.revoked.throwIfAborted();
    const { secret, stored } = newToken({
      name: issuedName(enroller.name, vm),
      scope: 'write',
      vm,
      // The VM cannot change its role, so the image of a worker never becomes an infra VM.
      role,
      createdAt: new Date(this.#options.now()).toISOString(),
      createdBy: enroller.name,
      enrolledBy: enroller.name,
      created,
      ...(from ? { enrolledFrom: from } : {}),
    });
    const pending = this.#begin(stored);
    const committed = ({ revision }: Position) => {
      this.#pending.delete(pending);
      stored.created ||= revision;
      // The revocation is committed after this, and repeated until it succeeds.
      if (pending.isRevoked) return;
      this.#forget(this.#byVm.get(vm));
      this.#add(stored);
    };
    const failed = () => this.#rollBack(pending);
    const requires = { kind: 'token', key: enroller.name } as const;
    const attachment = { records: [recordOf(stored)], requires, committed, failed };
    return { secret, attachment, isRevoked: () => pending.isRevoked };
  }

  /** Applies a record that another replica has written. A token that it has revoked is revoked immediately. */
  recordArrived({ kind, key, body }: RecordChange): void {
    if (key === CLOSED) {
      if (this.#closed || body === undefined) return;
      this.#closed = true;
      this.#options.closed?.();
      return;
    }
    this.#options.queue.drop({ kind, key });
    const known = this.#byName.get(key);
    if (body !== undefined && known?.update(parseStored(body))) return;
    this.#forget(known);
    if (body !== undefined) this.#load({ kind, key, body });
  }

  /** Revokes the token of an enrolled VM together with the removal of the VM, so that the VM can enrol again. */
  removeWithVm(id: string): Attachment | undefined {
    const name = this.#pendingOf(id)?.stored.name ?? this.#byVm.get(id)?.name;
    if (name === undefined) return undefined;
    return this.#commitWithVm(removalOf(name), () => this.#forget(this.#byVm.get(id)));
  }

  /**
   * Binds the token of an enrolled VM to the new place of the VM in the order. After a restart, the token would otherwise look
   * like that of a removed VM.
   * @param created the new revision of the VM's registration
   */
  moveWithVm(id: string, created: number): Attachment | undefined {
    const pending = this.#pendingOf(id);
    const { stored } = pending ?? this.#byVm.get(id) ?? {};
    if (!stored || pending?.isRevoked) return undefined;
    return this.#commitWithVm(recordOf({ ...stored, created }), ({ revision }) =>
      this.#byVm.get(id)?.moveTo(created || revision),
    );
  }

  /** The token of a VM whose enrolment is being committed. */
  #pendingOf(vm: string): PendingToken | undefined {
    return [...this.#pending].findLast(({ stored }) => stored.enrolledBy !== undefined && stored.vm === vm);
  }

  #commitWithVm(record: RecordChange, apply: (position: Position) => void): Attachment {
    const { key } = record;
    const dropped = this.#drop(record);
    this.#committing.add(key);
    const committed = (position: Position) => {
      this.#committing.delete(key);
      apply(position);
    };
    const failed = () => {
      this.#committing.delete(key);
      this.#restore(dropped);
    };
    return { records: [record], committed, failed };
  }

  #begin(stored: StoredToken): PendingToken {
    const pending = { stored, isRevoked: false, dropped: this.#drop(recordOf(stored)) };
    this.#pending.add(pending);
    return pending;
  }

  #rollBack(pending: PendingToken): void {
    this.#pending.delete(pending);
    this.#restore(pending.dropped);
  }

  /**
   * Drops the queued changes to a record, because a commit replaces it: saved after the commit, they would undo it.
   * @returns the dropped revocation, if any. If the commit fails, pass it to {@link #restore}, which queues it again
   */
  #drop(record: RecordChange): RecordChange | undefined {
    this.#options.queue.drop(record);
    return this.#options.revocations.drop(record);
  }

  #restore(dropped: RecordChange | undefined): void {
    if (dropped) this.#options.revocations.add(dropped);
  }

  #isChanging(name: string): boolean {
    return this.#committing.has(name) || [...this.#pending].some(({ stored }) => stored.name === name);
  }

  #load(record: StoredRecord): void {
    const stored = parseStored(record.body);
    // Older versions committed tokens and VMs separately, so a crash in between could leave behind the token of a removed VM.
    // Its next token overwrites it.
    const isOrphan = stored.enrolledBy !== undefined && this.#options.registrationOf(stored.vm!) !== stored.created;
    if (!isOrphan) this.#add(stored);
  }

  #add(stored: StoredToken): Token {
    const token = new Token(stored, this.#options.now);
    this.#byHash.set(stored.hash, token);
    this.#byName.set(stored.name, token);
    if (stored.enrolledBy !== undefined) this.#byVm.set(stored.vm!, token);
    if (stored.expiresAt !== undefined) this.#expiring.add(token);
    return token;
  }

  #forget(token: Token | undefined): void {
    if (!token) return;
    const { hash, name, enrolledBy, vm } = token.stored;
    this.#byHash.delete(hash);
    this.#expiring.delete(token);
    if (this.#byName.get(name) === token) this.#byName.delete(name);
    if (enrolledBy !== undefined && this.#byVm.get(vm!) === token) this.#byVm.delete(vm!);
    token.revoke();
  }
}

/** Name of the token that a VM receives when it enrols. Names of other tokens have no slash. */
function issuedName(enroller: string, vm: string): string {
  return `${enroller}/${vm}`;
}
