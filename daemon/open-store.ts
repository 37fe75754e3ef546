/** Opens the store of the registry, the embedded one or one in etcd, if its VMs fit into the heap. */
import { mkdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { VregError } from '../src/protocol/errors.ts';
import type { Silence } from './clock.ts';
import type { Budget } from './limits/budgets.ts';
import { fitsAtStart, heapLimit, storeTooLarge } from './limits/heap.ts';
import { alreadyRunning, readOtherProcess } from './process/pid-file.ts';
import { VmRecord } from './registry/vm-record.ts';
import type { EtcdOptions } from './store/etcd/etcd-url.ts';
import { SqliteStore } from './store/sqlite-store.ts';
import type { Contents, Store, StoredVm } from './store/store.ts';

/** Minimum number of flushes of heartbeats per lease: two may fail, and a live VM is still not stale elsewhere. */
const FLUSHES_PER_LEASE = 10;

/**
 * Number of attempts to open a busy data dir. Together they take 1.25 s, longer than another process takes to check a small
 * database.
 */
const BUSY_ATTEMPTS = 6;
/** Milliseconds between two such attempts. */
const BUSY_DELAY = 250;
/** Milliseconds between two attempts to open a store in etcd that does not respond. An election takes 1 to 2 s. */
const AWAY_DELAY = 1000;

/** An unexpected error, after which the unit of systemd starts the daemon again. */
const RESTART_EXIT_CODE = 1;

/** A store in etcd, which other replicas share. */
export interface EtcdSettings extends EtcdOptions {
  /** `etcd://` or `etcds://`. */
  url: string;
  /** Milliseconds between two flushes of heartbeats. */
  flushInterval: number;
}

export interface OpenedStore {
  store: Store;
  contents: Contents<VmRecord>;
  /** Times when no replica listened; none in a data dir, whose listening time stands still then. */
  silences: readonly Silence[];
}

/**
 * @throws VregError as {@link SqliteStore.open}; ALREADY_RUNNING names the other daemon; STORE_UNUSABLE if the heap is too small
 *   for the VMs
 */
export async function openStore(dataDir: string, budget: Budget, log: Logger): Promise<OpenedStore> {
  const onDeath = (error: Error) => {
    log.fatal({ err: error }, 'the store worker failed; every acknowledged change is on the disk');
    process.exit(RESTART_EXIT_CODE);
  };
  for (let tries = 1; ; tries++) {
    try {
      const { store, contents } = await openWithinHeap(
        (decode) => SqliteStore.open({ dataDir, budget, onDeath, decode }),
        log,
      );
      return { store, contents, silences: [] };
    } catch (error) {
      if (!(error instanceof VregError) || error.code !== 'ALREADY_RUNNING') throw error;
      const other = readOtherProcess(dataDir, 'serve');
      if (other) throw alreadyRunning(error, other);
      // Another process is starting or checking the database. It may soon write its pid file or finish.
      if (tries === BUSY_ATTEMPTS) throw error;
      await sleep(BUSY_DELAY);
    }
  }
}

export interface Replica {
  /** Contains the files of this replica. */
  dataDir: string;
  etcd: EtcdSettings;
  /** Milliseconds. */
  staleAfter: number;
  version: string;
  /** Waits while etcd does not respond, instead of failing. */
  waitsForStore?: boolean | undefined;
  /** Ends the wait. */
  signal?: AbortSignal | undefined;
}

/**
 * @param reportOutdated called when etcd was restored, so that this replica has to read it again
 * @throws VregError as {@link EtcdStore.open}; USAGE if the URL or its options are wrong; ALREADY_RUNNING if the data dir has
 *   another replica; STORE_UNUSABLE if the heap is too small for the VMs
 */
export async function openEtcdStore(
  { dataDir, etcd: { url, flushInterval, ...etcd }, staleAfter, version, waitsForStore, signal }: Replica,
  reportOutdated: () => void,
  log: Logger,
): Promise<OpenedStore> {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const other = readOtherProcess(dataDir, 'serve');
  if (other) {
    const hint = 'each replica on a machine needs its own --data-dir';
    throw alreadyRunning(new VregError('ALREADY_RUNNING', `${dataDir} belongs to another daemon`, { hint }), other);
  }
  const [{ readEtcdTarget }, { EtcdStore }, { isAway }] = await Promise.all([
    import('./store/etcd/etcd-url.ts'),
    import('./store/etcd/etcd-store.ts'),
    import('./store/etcd/etcd-error.ts'),
  ]);
  const target = await readEtcdTarget(url, etcd);
  for (;;) {
    try {
      const { store, contents } = await openWithinHeap(
        (decode) =>
          EtcdStore.open({
            target,
            flushInterval: Math.min(flushInterval, staleAfter / FLUSHES_PER_LEASE),
            details: { host: hostname(), version, since: new Date().toISOString() },
            decode,
            onProblem: (text) => log.warn(text),
            onDeath: (reason) => {
              log.warn(`${reason}: the daemon starts again, with the contents of etcd`);
              reportOutdated();
            },
          }),
        log,
      );
      return { store, contents, silences: contents.silences };
    } catch (error) {
      if (!waitsForStore || !isAway(error)) throw error;
      log.warn(`${(error as Error).message}; trying again`);
      await sleep(AWAY_DELAY, undefined, { signal });
    }
  }
}

/** Weighs the VMs, because too many for the heap would abort the process without a hint. @throws VregError STORE_UNUSABLE */
async function openWithinHeap<Opened extends { store: Store }>(
  open: (decode: (stored: StoredVm) => VmRecord | undefined) => Promise<Opened>,
  log: Logger,
): Promise<Opened> {
  const heap = heapLimit();
  let weight = 0;
  const opened = await open((stored) => {
    const vm = VmRecord.fromStored(stored);
    weight += vm.weight;
    // The VMs beyond the limit are only weighed, so that the error can name the size that is needed.
    return fitsAtStart(weight, heap) ? vm : undefined;
  });
  const shortage = storeTooLarge(weight, heap);
  if (!fitsAtStart(weight, heap)) {
    await opened.store.close();
    throw shortage;
  }
  if (shortage) log.warn(`${shortage.message}; ${shortage.hint}`);
  return opened;
}

/**
 * Waits for the store. If the daemon is stopped before the store is open, the store is closed as soon as it is open.
 * @throws the reason of the signal
 */
export async function unlessStopped(opening: Promise<OpenedStore>, signal?: AbortSignal): Promise<OpenedStore> {
  if (!signal) return opening;
  let stop = () => {};
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
  });
  signal.addEventListener('abort', stop);
  if (signal.aborted) stop();
  try {
    return await Promise.race([opening, stopped]);
  } catch (error) {
    if (signal.aborted) opening.then(({ store }) => store.close()).catch(() => {});
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
