/** The keys of the registry as a replica knows them: its entries, the journal, the records and the other replicas. */
import { JOURNAL_LENGTH } from '../../../src/protocol/events.ts';
import type { Position } from '../../../src/protocol/position.ts';
import type { Silence } from '../../clock.ts';
import { removedTexts } from '../journal.ts';
import type { JournalNote, LastChange, StoredRecord, StoredVm } from '../store.ts';
import { decodeValue, type EtcdKeys } from './etcd-keys.ts';
import type { KeyValue } from './messages.ts';

/** The first line of an entry. */
export interface VmHead {
  /** Id of the transaction that wrote it. */
  w: string;
  /** Revision of the registration; 0 for the revision of the key. */
  created: number;
  tag: string;
  /** Last sign of life at the time of the change, milliseconds since the epoch. */
  seen: number;
}

/** The first line of a note in the journal. The text is the JSON of the changed fields. */
export interface NoteHead extends Pick<JournalNote, 'type' | 'at' | 'by'> {
  w: string;
  /** Empty for a change of access tokens. */
  id: string;
  tag: string;
  /** For a note that was moved from another engine: its revision there, as a negative number. */
  moved?: number;
  /** Revision of the change, if the note was written later. */
  revision?: number;
}

export interface RecordHead {
  w: string;
}

export interface MetaHead {
  schema: number;
  registryId: string;
  /** Tag of the position before the first change. */
  tag: string;
  /** If the registry was moved from another engine: minus the lowest revision that it assigns to what it has moved. */
  moved?: number;
  /** Id of the restore that is not complete. */
  restoring?: string;
}

/** A note in the ring. */
export interface Note extends NoteHead {
  key: string;
  revision: number;
  removed: Readonly<Record<string, string>>;
}

export function readVm(id: string, { value, modRevision: revision }: KeyValue): StoredVm & { write: string } {
  const { head, text: body } = decodeValue<VmHead>(value);
  const { w: write, created, tag, seen } = head;
  return { id, created: created || revision, revision, tag, body, lastSeen: seen, heardAt: 0, write };
}

export function readNote({ key, value, modRevision: revision }: KeyValue): Note {
  const { head, text } = decodeValue<NoteHead>(value);
  return { revision, ...head, key, removed: head.moved === undefined ? removedTexts(head.type, text) : {} };
}

/** Reads a record. `created: 0` in its body stands for the revision of the key. */
export function readRecord(
  { kind, key }: Pick<StoredRecord, 'kind' | 'key'>,
  { value, modRevision }: KeyValue,
): StoredRecord & { write: string } {
  const { head, text } = decodeValue<RecordHead>(value);
  if (!text.includes('"created":0')) return { kind, key, body: text, write: head.w };
  const parsed = JSON.parse(text) as { created?: number };
  const body = parsed.created === 0 ? JSON.stringify({ ...parsed, created: modRevision }) : text;
  return { kind, key, body, write: head.w };
}

export function readSilences(value: Buffer): Silence[] {
  return JSON.parse(value.toString()) as Silence[];
}

/** Notes beyond the limit that are removed together. */
const PRUNE_STEP = 100;
/** Notes beyond the limit after which a replica removes some; a random addition makes it likely that only one does. */
const PRUNE_SLACK = 200;

/** The notes of the journal, oldest first. */
export class NoteRing {
  readonly #notes = new Map<string, Note>();
  /** Revisions of removals whose notes have not been written. */
  readonly #missing = new Set<number>();
  readonly #slack: number;

  constructor(random: () => number) {
    this.#slack = Math.floor(PRUNE_SLACK * (1 + random()));
  }

  add(note: Note): void {
    this.#notes.set(note.key, note);
    this.#missing.delete(note.revision);
  }

  delete(key: string): void {
    this.#notes.delete(key);
  }

  /** A VM was removed without a note. */
  addMissing(revision: number): void {
    this.#missing.add(revision);
  }

  /** Restores the order after a list, which is in the order of the keys, and after notes that were written late. */
  sort(): void {
    const notes = [...this.#notes.values()].sort(
      (a, b) => Number(a.moved === undefined) - Number(b.moved === undefined) || revisionOf(a) - revisionOf(b),
    );
    this.#notes.clear();
    for (const note of notes) this.add(note);
  }

  /** Positions of the changes of this history, oldest first. */
  positions(genesis: Position): Position[] {
    const own = [...this.#notes.values()].filter(({ moved }) => moved === undefined);
    const positions = own.map(({ revision, tag }) => ({ revision, tag }));
    return positions.length < JOURNAL_LENGTH ? [genesis, ...positions] : positions;
  }

  /** As {@link Store.lastChanges}. */
  lastChanges(after: number, until: number, genesis: number): LastChange[] | undefined {
    for (const revision of this.#missing) if (revision > after && revision <= until) return undefined;
    const last = new Map<string, LastChange>();
    let hasStart = after === genesis;
    for (const { id, type, at, by, revision, tag, moved, removed } of this.#notes.values()) {
      if (moved !== undefined) continue;
      if (revision === after) hasStart = true;
      if (revision <= after || revision > until || type === 'token') continue;
      last.delete(id);
      last.set(id, { id, type, at, by, revision, tag, removed });
    }
    return hasStart ? [...last.values()] : undefined;
  }

  /** Keys to remove, because the ring is too long. */
  excess(): string[] {
    const size = this.#notes.size;
    if (size <= JOURNAL_LENGTH + this.#slack) return [];
    return [...this.#notes.keys()].slice(0, Math.min(PRUNE_STEP, size - JOURNAL_LENGTH));
  }
}

/** The revision that clients see. */
export function revisionOf({ moved, revision }: Pick<Note, 'revision'> & { moved?: number | undefined }): number {
  return moved ?? revision;
}

/** Ids of the replicas that have a session. */
export class Replicas {
  readonly #keys: EtcdKeys;
  readonly #details = new Map<string, Record<string, unknown>>();

  constructor(keys: EtcdKeys) {
    this.#keys = keys;
  }

  put(key: string, value: Buffer): void {
    const parsed = this.#keys.parse(key);
    if (parsed.type !== 'replica') return;
    const { nonce: _nonce, ...details } = JSON.parse(value.toString()) as Record<string, unknown>;
    this.#details.set(parsed.replica, details);
  }

  delete(replica: string): void {
    this.#details.delete(replica);
  }

  has(replica: string): boolean {
    return this.#details.has(replica);
  }

  /** In a fixed order. */
  get all(): { replica: string; details: Record<string, unknown> }[] {
    return [...this.#details]
      .map(([replica, details]) => ({ replica, details }))
      .sort((a, b) => (a.replica < b.replica ? -1 : 1));
  }
}
