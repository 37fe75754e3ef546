/**
 * The messages of etcd's v3 API that vreg uses: `api/etcdserverpb/rpc.proto` and `api/mvccpb/kv.proto` of etcd 3.4, whose field
 * numbers never change. Unknown fields of newer servers are skipped.
 */
import { MessageReader, MessageWriter } from './protobuf.ts';

/** The state of the member that answered. */
export interface Header {
  clusterId: bigint;
  memberId: bigint;
  /** Revision of the whole key space when the member answered. It may be newer than the data of a watch response. */
  revision: number;
  raftTerm: number;
}

export interface KeyValue {
  key: string;
  /** A view on the received message, which it keeps alive: copy it to retain it. */
  value: Buffer;
  /** Revision of the put that created the key. */
  createRevision: number;
  /** Revision of the last put. */
  modRevision: number;
  /** Number of puts since the key was created. */
  version: number;
  /** Id of its lease; 0n if it has none. */
  lease: bigint;
}

export interface RangeRequest {
  key: string | Buffer;
  /** First key after the range; without it, only `key` is read. See {@link prefixEnd}. */
  rangeEnd?: string;
  /** Maximum number of keys; 0 means all. */
  limit?: number;
  /** Reads the key space of this revision; 0 means the current one. */
  revision?: number;
  /** Reads what the member has, which may be stale, instead of asking the leader. */
  serializable?: boolean;
  keysOnly?: boolean;
  countOnly?: boolean;
  /** Leaves out keys with a lower mod revision. */
  minModRevision?: number;
}

export interface RangeResponse {
  header: Header;
  /** In the order of the keys. */
  kvs: KeyValue[];
  /** True if the limit left out keys. */
  more: boolean;
  /** Number of keys in the range, without regard to the limit and the mod revision. */
  count: number;
  /** The last key as it is stored, to continue after it: a foreign key may not be valid UTF-8. */
  lastKey: Buffer | undefined;
}

export interface PutRequest {
  key: string;
  value: string | Uint8Array;
  lease?: bigint;
}

export interface DeleteRequest {
  key: string;
  rangeEnd?: string;
}

/** A condition on one key. The default result is `=`. A key that does not exist has the revisions and the version 0. */
/** With `rangeEnd`, it must hold for each key of the range, and holds if there are none, except for a value. */
export type Compare = { key: string; rangeEnd?: string; result?: '=' | '>' | '<' | '!=' } & (
  | { value: string | Uint8Array }
  | { modRevision: number }
  | { createRevision: number }
  | { version: number }
  | { lease: bigint }
);

export type Op =
  | ({ type: 'put' } & PutRequest)
  | ({ type: 'delete' } & DeleteRequest)
  | ({ type: 'range' } & RangeRequest);

export type OpResponse = { type: 'put' } | { type: 'delete'; deleted: number } | ({ type: 'range' } & RangeResponse);

export interface TxnRequest {
  compares: readonly Compare[];
  success: readonly Op[];
  failure: readonly Op[];
}

export interface TxnResponse {
  header: Header;
  succeeded: boolean;
  /** One response for each operation of the branch that was executed. */
  responses: OpResponse[];
}

export interface StoredEvent {
  type: 'put' | 'delete';
  /** A delete sets only the key and the mod revision. */
  kv: KeyValue;
}

export interface WatchResponse {
  header: Header;
  /** -1 in a reply to a progress request. */
  watchId: number;
  created: boolean;
  canceled: boolean;
  /** Oldest revision that can be watched, if the watch asked for an older one; otherwise 0. */
  compactRevision: number;
  cancelReason: string;
  /** True if the next response continues this one. */
  fragment: boolean;
  events: StoredEvent[];
}

export type WatchRequest = { create: { key: string; rangeEnd: string; startRevision: number } } | { progress: true };

export interface StatusResponse {
  header: Header;
  version: string;
  /** Bytes of the database file, and of the part in use. */
  dbSize: number;
  dbSizeInUse: number;
  /** Member id; 0n without a leader. */
  leader: bigint;
  raftIndex: number;
  raftAppliedIndex: number;
  errors: string[];
  isLearner: boolean;
}

export type AlarmType = 'NONE' | 'NOSPACE' | 'CORRUPT';

export interface Alarm {
  memberId: bigint;
  alarm: AlarmType;
}

export interface Member {
  id: bigint;
  name: string;
  peerUrls: string[];
  clientUrls: string[];
  isLearner: boolean;
}

/** A method of the API: its path and codec. */
export interface Method<Request, Response> {
  path: string;
  /** True if the method changes data, so that sending it again could have an effect. */
  isWrite: boolean;
  encode(request: Request): Buffer;
  decode(bytes: Buffer): Response;
}

/** The first key after all keys with this prefix. @param prefix ASCII, not empty */
export function prefixEnd(prefix: string): string {
  return prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1);
}

const RESULTS = ['=', '>', '<', '!='] as const;
const ALARMS: readonly AlarmType[] = ['NONE', 'NOSPACE', 'CORRUPT'];
const NO_BYTES = Buffer.alloc(0);

function writeRange(request: RangeRequest): MessageWriter {
  return new MessageWriter()
    .bytes(1, request.key)
    .bytes(2, request.rangeEnd)
    .optionalNumber(3, request.limit)
    .optionalNumber(4, request.revision)
    .flag(7, request.serializable)
    .flag(8, request.keysOnly)
    .flag(9, request.countOnly)
    .optionalNumber(10, request.minModRevision);
}

function writePut({ key, value, lease }: PutRequest): MessageWriter {
  return new MessageWriter().bytes(1, key).bytes(2, value).id(3, lease);
}

function writeDelete({ key, rangeEnd }: DeleteRequest): MessageWriter {
  return new MessageWriter().bytes(1, key).bytes(2, rangeEnd);
}

function writeCompare(compare: Compare): MessageWriter {
  const writer = new MessageWriter()
    .number(1, RESULTS.indexOf(compare.result ?? '='))
    .bytes(3, compare.key)
    .bytes(64, compare.rangeEnd);
  if ('version' in compare) return writer.number(2, 0).number(4, compare.version);
  if ('createRevision' in compare) return writer.number(2, 1).number(5, compare.createRevision);
  if ('modRevision' in compare) return writer.number(2, 2).number(6, compare.modRevision);
  if ('value' in compare) return writer.number(2, 3).bytes(7, compare.value);
  return writer.number(2, 4).id(8, compare.lease);
}

function writeOp(op: Op): MessageWriter {
  const writer = new MessageWriter();
  if (op.type === 'range') return writer.message(1, writeRange(op));
  if (op.type === 'put') return writer.message(2, writePut(op));
  return writer.message(3, writeDelete(op));
}

function writeTxn({ compares, success, failure }: TxnRequest): MessageWriter {
  const writer = new MessageWriter();
  for (const compare of compares) writer.message(1, writeCompare(compare));
  for (const op of success) writer.message(2, writeOp(op));
  for (const op of failure) writer.message(3, writeOp(op));
  return writer;
}

function writeWatch(request: WatchRequest): MessageWriter {
  if ('progress' in request) return new MessageWriter().message(3, new MessageWriter());
  const { key, rangeEnd, startRevision } = request.create;
  // 4: progress notifications while nothing changes; 8: responses above 1.5 MB arrive in fragments.
  const create = new MessageWriter()
    .bytes(1, key)
    .bytes(2, rangeEnd)
    .number(3, startRevision)
    .flag(4, true)
    .flag(8, true);
  return new MessageWriter().message(1, create);
}

const noHeader = (): Header => ({ clusterId: 0n, memberId: 0n, revision: 0, raftTerm: 0 });

function readHeader(reader: MessageReader): Header {
  const header = noHeader();
  while (reader.next()) {
    if (reader.field === 1) header.clusterId = reader.id();
    else if (reader.field === 2) header.memberId = reader.id();
    else if (reader.field === 3) header.revision = reader.number();
    else if (reader.field === 4) header.raftTerm = reader.number();
  }
  return header;
}

/** @param onKey receives the bytes of the key */
function readKeyValue(reader: MessageReader, onKey?: (key: Buffer) => void): KeyValue {
  const kv: KeyValue = { key: '', value: NO_BYTES, createRevision: 0, modRevision: 0, version: 0, lease: 0n };
  while (reader.next()) {
    switch (reader.field) {
      case 1: {
        const key = reader.bytes();
        onKey?.(key);
        kv.key = key.toString();
        break;
      }
      case 2:
        kv.createRevision = reader.number();
        break;
      case 3:
        kv.modRevision = reader.number();
        break;
      case 4:
        kv.version = reader.number();
        break;
      case 5:
        kv.value = reader.bytes();
        break;
      case 6:
        kv.lease = reader.id();
        break;
    }
  }
  return kv;
}

function readRange(reader: MessageReader): RangeResponse {
  const response: RangeResponse = { header: noHeader(), kvs: [], more: false, count: 0, lastKey: undefined };
  const onKey = (key: Buffer): void => {
    response.lastKey = key;
  };
  while (reader.next()) {
    if (reader.field === 1) response.header = readHeader(reader.message());
    else if (reader.field === 2) response.kvs.push(readKeyValue(reader.message(), onKey));
    else if (reader.field === 3) response.more = reader.flag();
    else if (reader.field === 4) response.count = reader.number();
  }
  return response;
}

function readDelete(reader: MessageReader): { header: Header; deleted: number } {
  const response = { header: noHeader(), deleted: 0 };
  while (reader.next()) {
    if (reader.field === 1) response.header = readHeader(reader.message());
    else if (reader.field === 2) response.deleted = reader.number();
  }
  return response;
}

function readOpResponse(reader: MessageReader): OpResponse {
  let response: OpResponse | undefined;
  while (reader.next()) {
    if (reader.field === 1) response = { type: 'range', ...readRange(reader.message()) };
    else if (reader.field === 2) response = { type: 'put' };
    else if (reader.field === 3) response = { type: 'delete', deleted: readDelete(reader.message()).deleted };
  }
  return response ?? { type: 'put' };
}

function readTxn(reader: MessageReader): TxnResponse {
  const response: TxnResponse = { header: noHeader(), succeeded: false, responses: [] };
  while (reader.next()) {
    if (reader.field === 1) response.header = readHeader(reader.message());
    else if (reader.field === 2) response.succeeded = reader.flag();
    else if (reader.field === 3) response.responses.push(readOpResponse(reader.message()));
  }
  return response;
}

function readEvent(reader: MessageReader): StoredEvent {
  let type: StoredEvent['type'] = 'put';
  let kv: KeyValue | undefined;
  while (reader.next()) {
    if (reader.field === 1) type = reader.number() === 1 ? 'delete' : 'put';
    else if (reader.field === 2) kv = readKeyValue(reader.message());
  }
  return { type, kv: kv ?? readKeyValue(new MessageReader(NO_BYTES)) };
}

function readWatch(reader: MessageReader): WatchResponse {
  const response: WatchResponse = {
    header: noHeader(),
    watchId: 0,
    created: false,
    canceled: false,
    compactRevision: 0,
    cancelReason: '',
    fragment: false,
    events: [],
  };
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        response.header = readHeader(reader.message());
        break;
      case 2:
        response.watchId = reader.signed();
        break;
      case 3:
        response.created = reader.flag();
        break;
      case 4:
        response.canceled = reader.flag();
        break;
      case 5:
        response.compactRevision = reader.number();
        break;
      case 6:
        response.cancelReason = reader.text();
        break;
      case 7:
        response.fragment = reader.flag();
        break;
      case 11:
        response.events.push(readEvent(reader.message()));
        break;
    }
  }
  return response;
}

/** Reads an answer with a header in field 1, an id in field 2 and a number in field 3: those of leases. */
function readLease(reader: MessageReader): { header: Header; id: bigint; ttl: number } {
  const response = { header: noHeader(), id: 0n, ttl: 0 };
  while (reader.next()) {
    if (reader.field === 1) response.header = readHeader(reader.message());
    else if (reader.field === 2) response.id = reader.id();
    else if (reader.field === 3) response.ttl = Math.max(0, reader.signed());
  }
  return response;
}

function readStatus(reader: MessageReader): StatusResponse {
  const response: StatusResponse = {
    header: noHeader(),
    version: '',
    dbSize: 0,
    dbSizeInUse: 0,
    leader: 0n,
    raftIndex: 0,
    raftAppliedIndex: 0,
    errors: [],
    isLearner: false,
  };
  while (reader.next()) {
    switch (reader.field) {
      case 1:
        response.header = readHeader(reader.message());
        break;
      case 2:
        response.version = reader.text();
        break;
      case 3:
        response.dbSize = reader.number();
        break;
      case 4:
        response.leader = reader.id();
        break;
      case 5:
        response.raftIndex = reader.number();
        break;
      case 7:
        response.raftAppliedIndex = reader.number();
        break;
      case 8:
        response.errors.push(reader.text());
        break;
      case 9:
        response.dbSizeInUse = reader.number();
        break;
      case 10:
        response.isLearner = reader.flag();
        break;
    }
  }
  return response;
}

function readAlarms(reader: MessageReader): Alarm[] {
  const alarms: Alarm[] = [];
  while (reader.next()) {
    if (reader.field !== 2) continue;
    const fields = reader.message();
    const found: Alarm = { memberId: 0n, alarm: 'NONE' };
    while (fields.next()) {
      if (fields.field === 1) found.memberId = fields.id();
      else if (fields.field === 2) found.alarm = ALARMS[fields.number()] ?? 'NONE';
    }
    alarms.push(found);
  }
  return alarms;
}

function readMembers(reader: MessageReader): Member[] {
  const members: Member[] = [];
  while (reader.next()) {
    if (reader.field !== 2) continue;
    const fields = reader.message();
    const member: Member = { id: 0n, name: '', peerUrls: [], clientUrls: [], isLearner: false };
    while (fields.next()) {
      if (fields.field === 1) member.id = fields.id();
      else if (fields.field === 2) member.name = fields.text();
      else if (fields.field === 3) member.peerUrls.push(fields.text());
      else if (fields.field === 4) member.clientUrls.push(fields.text());
      else if (fields.field === 5) member.isLearner = fields.flag();
    }
    members.push(member);
  }
  return members;
}

function readToken(reader: MessageReader): string {
  let token = '';
  while (reader.next()) if (reader.field === 2) token = reader.text();
  return token;
}

/** Reads an answer of which only the header matters. */
function readPut(reader: MessageReader): { header: Header } {
  let header = noHeader();
  while (reader.next()) if (reader.field === 1) header = readHeader(reader.message());
  return { header };
}

function method<Request, Response>(
  path: string,
  write: (request: Request) => MessageWriter,
  read: (reader: MessageReader) => Response,
  isWrite = false,
): Method<Request, Response> {
  return {
    path: `/etcdserverpb.${path}`,
    isWrite,
    encode: (request) => write(request).finish(),
    decode: (bytes) => read(new MessageReader(bytes)),
  };
}

const writeNothing = (): MessageWriter => new MessageWriter();

/** Methods with one request and one response. Granting a lease and compacting have no effect on data, so they may be sent again. */
export const METHODS = {
  range: method('KV/Range', writeRange, readRange),
  put: method('KV/Put', writePut, readPut, true),
  delete: method('KV/DeleteRange', writeDelete, readDelete, true),
  txn: method('KV/Txn', writeTxn, readTxn, true),
  compact: method('KV/Compact', (revision: number) => new MessageWriter().number(1, revision).flag(2, true), readPut),
  grantLease: method('Lease/LeaseGrant', (ttl: number) => new MessageWriter().number(1, ttl), readLease),
  revokeLease: method('Lease/LeaseRevoke', (id: bigint) => new MessageWriter().id(1, id), readPut),
  authenticate: method(
    'Auth/Authenticate',
    ({ user, password }: { user: string; password: string }) => new MessageWriter().bytes(1, user).bytes(2, password),
    readToken,
  ),
  status: method('Maintenance/Status', writeNothing, readStatus),
  alarms: method('Maintenance/Alarm', writeNothing, readAlarms),
  disarm: method(
    'Maintenance/Alarm',
    ({ memberId, alarm }: Alarm) => new MessageWriter().number(1, 2).id(2, memberId).number(3, ALARMS.indexOf(alarm)),
    readAlarms,
  ),
  defragment: method('Maintenance/Defragment', writeNothing, readPut),
  members: method('Cluster/MemberList', writeNothing, readMembers),
} as const;

/** Methods with a stream of requests and a stream of responses. */
export const STREAMS = {
  watch: method('Watch/Watch', writeWatch, readWatch),
  keepAlive: method('Lease/LeaseKeepAlive', (id: bigint) => new MessageWriter().id(1, id), readLease),
} as const;
