/**
 * VMs on their way from the database to the registry. SQLite joins the rows of many VMs into one value, and their checksums are
 * computed from its bytes, because a call of SQLite and a string per column of each row would take twice the time of a check.
 */

import { crc32 } from 'node:zlib';
import type Database from 'libsql';
import { crcOf, DamageError } from './integrity.ts';
import { entryTag } from './schema.ts';
import type { StoredHeartbeat, StoredVm } from './store.ts';

/** VMs per batch: 128 KB of usual entries. */
const BATCH = 256;
/** Size in bytes of an entry that is a batch of its own, so that no batch takes much memory. */
const LARGE = 4096;
const NEWLINE = 0x0a;
const SPACE = 0x20;

/** The values that the checksum of a row covers. The row of an entry that has not changed since schema 3 has no tag. */
type VmRow = [id: string, created: number, revision: number, slot: number, body: string, tag?: string];

type Times = Pick<StoredHeartbeat, 'lastSeen' | 'heardAt'>;

/** VMs that have passed their checksums. */
export interface VmBatch {
  /** JSON of the rows without newlines, separated by commas. */
  rows: Buffer;
  count: number;
  slots: readonly number[];
  /** The highest revision. */
  newest: number;
}

/** @returns the JSON of a row. JSON.stringify returns the same text, so the checksum of one is that of the other */
function rowJson(isTagged: boolean): string {
  const columns = 'id, created, revision, slot, body';
  const untagged = `json_array(${columns})`;
  return isTagged ? `CASE WHEN tag IS NULL THEN ${untagged} ELSE json_array(${columns}, tag) END` : untagged;
}

type BatchRow = [last: number, rows: Uint8Array, slots: string, checksums: string, newest: number];

/**
 * Reads all VMs, in no particular order.
 * @throws DamageError naming the VM whose checksum is wrong
 */
export function* readVms(db: Database.Database): Generator<VmBatch> {
  const next = db
    .prepare(
      `SELECT max(rowid), CAST(group_concat(${rowJson(true)}, ',' || char(10)) AS BLOB),
         json_group_array(slot), json_group_array(crc), max(revision)
       FROM (SELECT rowid, * FROM vms WHERE rowid > ? AND (octet_length(body) > ${LARGE}) = ? ORDER BY rowid LIMIT ?)`,
    )
    .raw();
  for (const [isLarge, limit] of [
    [0, BATCH],
    [1, 1],
  ] as const) {
    let after = 0;
    for (;;) {
      const row = next.get(after, isLarge, limit) as BatchRow | [null];
      if (row[0] === null) break;
      after = row[0];
      yield checkedBatch(row as BatchRow);
    }
  }
}

/** As {@link readVms}, of a store of schema 3, in the order of the registrations. */
export function* readUntaggedVms(db: Database.Database): Generator<VmBatch> {
  const rows = db
    .prepare(
      `SELECT rowid, CAST(${rowJson(false)} AS BLOB), json_array(slot), json_array(crc), revision FROM vms ORDER BY created`,
    )
    .raw()
    .iterate();
  for (const row of rows as Iterable<BatchRow>) yield checkedBatch(row);
}

function checkedBatch([, value, slots, checksums, newest]: BatchRow): VmBatch {
  const rows = Buffer.from(value.buffer, value.byteOffset, value.length);
  const crcs = JSON.parse(checksums) as number[];
  let from = 0;
  for (const crc of crcs) {
    const newline = rows.indexOf(NEWLINE, from);
    const row = rows.subarray(from, newline === -1 ? rows.length : newline - 1);
    if (crc32(row) !== crc) checkParsed(row, crc);
    if (newline === -1) break;
    rows[newline] = SPACE;
    from = newline + 1;
  }
  return { rows, count: crcs.length, slots: JSON.parse(slots) as number[], newest };
}

/** Checks a row whose JSON differs from that of JSON.stringify. @throws DamageError */
function checkParsed(row: Buffer, crc: number): void {
  const values = JSON.parse(row.toString()) as VmRow;
  if (crcOf(values) !== crc) throw new DamageError(`the entry of VM ${JSON.stringify(values[0])} fails its checksum`);
}

/** @returns the id of the first VM in the batch that the predicate accepts, as JSON */
export function findId({ rows }: VmBatch, accept: (revision: number, slot: number) => boolean): string {
  const [id] = parseRows(rows.toString()).find(([, , revision, slot]) => accept(revision, slot)) ?? [];
  return JSON.stringify(id);
}

/** @param rows as in {@link VmBatch} */
function parseRows(rows: string): VmRow[] {
  return JSON.parse(`[${rows}]`) as VmRow[];
}

/** @returns the JSON of a batch and the times of its VMs, without newlines, in pieces */
export function encodeBatch({ rows, slots }: VmBatch, timesOf: (slot: number) => Times): Buffer[] {
  const times = new Float64Array(2 * slots.length);
  for (const [n, slot] of slots.entries()) {
    const { lastSeen, heardAt } = timesOf(slot);
    times[2 * n] = lastSeen;
    times[2 * n + 1] = heardAt;
  }
  const encoded = Buffer.from(times.buffer).toString('base64');
  return [Buffer.from(`{"times":"${encoded}","vms":[`), rows, Buffer.from(']}')];
}

/** A parsed batch. */
export interface EncodedBatch {
  times: string;
  vms: VmRow[];
}

export function decodeBatch({ times: encoded, vms }: EncodedBatch): StoredVm[] {
  const times = new Float64Array(new Uint8Array(Buffer.from(encoded, 'base64')).buffer);
  return vms.map(([id, created, revision, , body, tag = entryTag({ id, created, revision, body })], n) => ({
    id,
    created,
    revision,
    tag,
    body,
    lastSeen: times[2 * n]!,
    heardAt: times[2 * n + 1]!,
  }));
}
