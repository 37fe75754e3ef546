/**
 * The keys of a registry in etcd, and their values. Below the prefix of the URL:
 *
 *     s/meta                         schema, id of the registry, and the tag of its first position
 *     s/vm/ID                        an entry; its ETag and its place in lists come from the revisions of the key
 *     s/journal/ID LF WRITE          the note of a change, in the transaction of the change
 *     s/record/KIND/KEY              tokens as hashes, identities, conflicts
 *     s/replica/REPLICA              the session of a replica; REPLICA/flush marks transactions that are no changes
 *     s/request/REPLICA/ID           another replica asks REPLICA for the identity of a VM's agent
 *     s/silences                     times in which no replica received heartbeats
 *     hb/REPLICA/SHARD               packed heartbeats; hb/REPLICA/at is the time of the last flush
 *
 * A value consists of a line of JSON that the store reads, and the text that it does not interpret.
 */
import type { RecordChange } from '../store.ts';

/** Version of the layout. A daemon refuses a newer one. */
export const LAYOUT_VERSION = 1;

/** Separates the id of a VM from the rest of a key. JSON text contains no line break. */
const SEPARATOR = '\n';

export type ParsedKey =
  | { type: 'meta' | 'silences' | 'other' }
  | { type: 'vm'; id: string }
  | { type: 'journal' }
  | { type: 'record'; record: Pick<RecordChange, 'kind' | 'key'> }
  | { type: 'replica'; replica: string }
  | { type: 'flush'; replica: string }
  | { type: 'request'; replica: string; id: string };

export class EtcdKeys {
  readonly prefix: string;
  /** All keys except heartbeats. One watch covers them, so their order is known. */
  readonly state: string;
  readonly heartbeats: string;
  readonly meta: string;
  readonly silences: string;

  /** @param prefix of the URL; ends with a slash */
  constructor(prefix: string) {
    this.prefix = prefix;
    this.state = `${prefix}s/`;
    this.heartbeats = `${prefix}hb/`;
    this.meta = `${this.state}meta`;
    this.silences = `${this.state}silences`;
  }

  vm(id: string): string {
    return `${this.state}vm/${escapeText(id)}`;
  }

  /** @param id of the VM; empty for a change of access tokens @param write id of the transaction; empty for all of the VM */
  journal(id: string, write: string): string {
    return `${this.state}journal/${escapeText(id)}${SEPARATOR}${write}`;
  }

  record({ kind, key }: Pick<RecordChange, 'kind' | 'key'>): string {
    return `${this.state}record/${kind}/${escapeText(key)}`;
  }

  replica(replica: string): string {
    return `${this.state}replica/${replica}`;
  }

  flush(replica: string): string {
    return `${this.replica(replica)}/flush`;
  }

  /** @param id of the VM; empty for all requests to the replica */
  request(replica: string, id: string): string {
    return `${this.state}request/${replica}/${escapeText(id)}`;
  }

  parse(key: string): ParsedKey {
    if (key === this.meta) return { type: 'meta' };
    if (key === this.silences) return { type: 'silences' };
    const [kind = '', name = '', ...rest] = key.slice(this.state.length).split('/');
    switch (kind) {
      case 'vm':
        return { type: 'vm', id: unescapeText([name, ...rest].join('/')) };
      case 'journal':
        return { type: 'journal' };
      case 'record':
        return { type: 'record', record: { kind: name as RecordChange['kind'], key: unescapeText(rest.join('/')) } };
      case 'replica':
        if (rest.length === 0) return { type: 'replica', replica: name };
        return rest[0] === 'flush' ? { type: 'flush', replica: name } : { type: 'other' };
      case 'request':
        return { type: 'request', replica: name, id: unescapeText(rest.join('/')) };
      default:
        return { type: 'other' };
    }
  }
}

/** A text that is valid UTF-8 and has no line break; different texts stay different. */
function escapeText(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}

function unescapeText(text: string): string {
  return JSON.parse(`"${text}"`) as string;
}

export function encodeValue(head: object, text: string): string {
  return `${JSON.stringify(head)}\n${text}`;
}

export function decodeValue<Head>(value: Buffer): { head: Head; text: string } {
  const end = value.indexOf(10);
  return { head: JSON.parse(value.toString('utf8', 0, end)) as Head, text: value.toString('utf8', end + 1) };
}
