/**
 * The changes of a registry with several replicas. The store decides whether a change comes first and chooses its revision, so
 * no change is validated against one that is still pending: a change to a VM waits for the previous one of this replica.
 *
 * A change of this replica becomes visible as soon as the store has committed it. Its events wait until the changes with lower
 * revisions, which other replicas have committed, have arrived.
 */
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Position } from '../../src/protocol/position.ts';
import type { Arrival, Change, Replication, Store } from '../store/store.ts';
import type { Positions } from './positions.ts';
import { type Changes, changeOf, type Decision, Superseded, tagAfter } from './writes.ts';

/** Attempts at a change while other replicas change the same VM. */
const MAX_ATTEMPTS = 5;
/** Changes of {@link SharedChanges.commitAll} that are committed at the same time: etcd is then close to its highest throughput. */
const WRITERS = 16;
/**
 * Milliseconds for which a change waits for earlier changes to the same VM. While the store does not respond, each of them takes
 * seconds. Without a limit, the store would execute changes long after their clients have given up.
 */
const TURN_TIMEOUT = 4000;
/** Codes of errors for which a replica that has not caught up may refuse a change. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'CONFLICT',
  'NOT_FOUND',
  'PRECONDITION_FAILED',
  'FORBIDDEN',
  'UNAUTHORIZED',
]);

/** Codes of errors with which the store would also fail the next changes. Each may take seconds. */
const OUTAGES: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['STORE_FAILED', 'OUTCOME_UNKNOWN']);

/** Publishes the events of a change. */
type Announce = () => void;

export class SharedChanges implements Changes {
  readonly nextRevision = 0;
  readonly commitsTogether = false;
  readonly #store: Store;
  readonly #replication: Replication;
  readonly #positions: Positions;
  readonly #beforeNext: () => void;
  /** The last method for each VM, which the next one waits for. */
  readonly #turns = new Map<string, Promise<void>>();
  /** Changes of this replica that have not arrived yet, with the events of those that are visible already. */
  readonly #own = new Map<Change, { decision: Decision; announce?: Announce }>();
  /** How often this replica has begun to catch up. */
  #catchUps = 0;
  /** The latest catch-up that has ended, by its number. */
  #lastCatchUp = 0;
  #added = 0;
  #growth = 0;

  /** @param beforeNext as for {@link PendingChanges} */
  constructor(store: Store, replication: Replication, positions: Positions, beforeNext: () => void) {
    this.#store = store;
    this.#replication = replication;
    this.#positions = positions;
    this.#beforeNext = beforeNext;
  }

  get added(): number {
    return this.#added;
  }

  get growth(): number {
    return this.#growth;
  }

  /** A change waits until the previous one to the same VM is done. */
  of(): undefined {
    return undefined;
  }

  /**
   * Runs a method that changes a VM when all earlier ones for this VM are done. This replica may know an outdated VM. Therefore,
   * the method runs again if another replica was first, or if it has refused the request before this replica has caught up.
   * @throws VregError as the method, and BUSY if it cannot catch up, or waits too long for earlier changes
   */
  decide<T>(id: string, act: () => Promise<T>): Promise<T> {
    const catchUps = this.#catchUps;
    return this.#inTurn(id, () => this.#attempt(id, catchUps, act));
  }

  /** @param catchUps number of them that had begun when the request arrived. A later one is enough to refuse it. */
  async #attempt<T>(id: string, catchUps: number, act: () => Promise<T>): Promise<T> {
    let isCurrent = false;
    for (let attempt = 1; ; attempt++) {
      isCurrent ||= this.#lastCatchUp > catchUps;
      try {
        return await act();
      } catch (error) {
        if (error instanceof Superseded) {
          if (attempt >= MAX_ATTEMPTS) throw tooManyWriters(id);
        } else if (isCurrent || !mayBeOutdated(error)) throw error;
        else await this.#catchUp();
        isCurrent = true;
      }
    }
  }

  async #catchUp(): Promise<void> {
    const catchUp = ++this.#catchUps;
    await this.#replication.refresh();
    this.#lastCatchUp = Math.max(this.#lastCatchUp, catchUp);
  }

  async #inTurn<T>(id: string, act: () => Promise<T>): Promise<T> {
    let hasBegun = false;
    const begin = () => {
      hasBegun = true;
      return act();
    };
    const previous = this.#turns.get(id);
    const work = previous ? afterTurn(previous, id).then(begin) : begin();
    const end = () => {
      if (this.#turns.get(id) === turn) this.#turns.delete(id);
    };
    // A change that gives up leaves the earlier ones in progress, and later ones still wait for those.
    const turn: Promise<void> = Promise.all([previous, settled(work)]).then(end);
    this.#turns.set(id, turn);
    try {
      return await work;
    } finally {
      if (hasBegun) end();
    }
  }

  /** @throws Superseded, and the store's errors */
  async commit(decision: Decision): Promise<Position> {
    const release = this.#reserve(decision);
    try {
      return await this.#commit(decision);
    } finally {
      release();
    }
  }

  async #commit(decision: Decision): Promise<Position> {
    const previousTag = this.#positions.latest.tag;
    const tag = tagAfter(previousTag, 0, decision);
    const change: Change = {
      ...changeOf(decision, { revision: 0, tag }, previousTag),
      replaces: decision.vm?.before?.version.revision ?? 0,
    };
    const committed = this.#store.commit(change);
    this.#own.set(change, { decision });
    try {
      const position = await committed;
      if (position === undefined) throw new Superseded('another replica was first');
      this.#show(change, position);
      return position;
    } catch (error) {
      // If the outcome is unknown and the change arrives later, it counts as one of another replica.
      this.#own.delete(change);
      throw error;
    }
  }

  /** Counts a change as pending. @returns ends that */
  #reserve({ vm }: Decision): () => void {
    const { before, after } = vm ?? {};
    const isNew = after !== undefined && before === undefined;
    const growth = (after?.weight ?? 0) - (before?.weight ?? 0);
    if (isNew) this.#added++;
    this.#growth += growth;
    return () => {
      if (isNew) this.#added--;
      this.#growth -= growth;
    };
  }

  async settle(): Promise<void> {
    await this.#replication.refresh();
  }

  /** Each change succeeds or fails alone. If the store fails at one, the later ones are not sent. */
  async commitAll(decisions: readonly Decision[]): Promise<ReadonlyMap<number, VregError | Superseded>> {
    const failed = new Map<number, VregError | Superseded>();
    const releases = decisions.map((decision) => this.#reserve(decision));
    const remaining = decisions.entries();
    let outage: VregError | undefined;
    const work = async () => {
      for (const [at, decision] of remaining) {
        try {
          if (outage) failed.set(at, outage);
          else await this.#commit(decision);
        } catch (error) {
          if (!(error instanceof Superseded || error instanceof VregError)) throw error;
          failed.set(at, error);
          if (error instanceof VregError && OUTAGES.has(error.code)) outage ??= notSent(error);
        } finally {
          releases[at]!();
        }
      }
    };
    await Promise.all(Array.from({ length: WRITERS }, work));
    return failed;
  }

  /** Makes a change of this replica visible, unless it already is: it may arrive before its commit resolves. */
  #show(change: Change, position: Position): Announce | undefined {
    const own = this.#own.get(change);
    if (!own || own.announce) return own?.announce;
    const { vm, apply } = own.decision;
    if (vm?.after) {
      const { version } = vm.after;
      version.revision = position.revision;
      version.created ||= position.revision;
    }
    // Events of expired leases precede those of the change.
    this.#beforeNext();
    own.announce = apply(position);
    return own.announce;
  }

  /** Publishes a change that has arrived. @param apply makes a change of another replica visible */
  arrived({ own, position }: Arrival, apply: () => Announce): void {
    this.#beforeNext();
    const announce = (own && this.#show(own, position)) ?? apply();
    if (own) this.#own.delete(own);
    this.#positions.publish(position);
    announce();
  }
}

/** @throws VregError BUSY if the earlier changes are not done in time */
async function afterTurn(previous: Promise<void>, id: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(tooManyWriters(id)), TURN_TIMEOUT);
  });
  try {
    await Promise.race([previous, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves when a promise is settled, and never rejects. */
async function settled(promise: Promise<unknown>): Promise<void> {
  await promise.catch(() => {});
}

/** True for an error that depends on what this replica knows about a VM. */
function mayBeOutdated(error: unknown): boolean {
  return error instanceof VregError && REFUSALS.has(error.code);
}

/** @param cause the failure of an earlier change */
function notSent(cause: VregError): VregError {
  return new VregError('STORE_FAILED', 'not sent, because the store failed at an earlier entry', {
    hint: 'repeat the import when the store works again',
    retryAfter: 2,
    cause,
  });
}

function tooManyWriters(id: string): VregError {
  return new VregError('BUSY', `too many concurrent changes to VM "${id}"`, {
    hint: 'retry in a second',
    retryAfter: 1,
  });
}
