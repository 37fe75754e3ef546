/** One VM in memory: the parsed entry, and its JSON kept ready so that a read serialises nothing. */
import type { Vm } from '../../src/protocol/vm.ts';
import type { StoredVm } from '../store/store.ts';

export interface LastSeen {
  /** Last sign of life, wall clock, milliseconds since the epoch. */
  lastSeen: number;
  /** The same moment on the listening clock, in milliseconds. */
  heardAt: number;
}

export interface Version {
  /** Revision of the registration: what lists are sorted by. */
  created: number;
  /** Revision of the last change. */
  revision: number;
}

/** Everything of an entry that only a change can change. */
export type Spec = Omit<Vm, 'lastSeen'>;

/** What stands for an object, a list and a field in JSON, and how many bytes of JSON its memory is worth besides. */
const MORE = { [code('{')]: 20, [code('[')]: 8, [code(':')]: 4 };

/** Bytes of an entry's JSON that follow what is declared. */
const LAST_SEEN = ',"lastSeen":"2026-01-01T00:00:00.000Z"}'.length;

export class VmRecord {
  readonly vm: Spec;
  readonly version: Version;
  /** The entry's JSON up to where `lastSeen` goes, which is its last field. */
  readonly #head: string;
  #life: LastSeen;
  #json: string | undefined;
  #size: number | undefined;
  #weight: number | undefined;
  /** Milliseconds by which its lease is longer, in a mass loss. */
  #grace = 0;

  constructor(vm: Spec, order: Version, seen: LastSeen) {
    this.vm = inOrder(vm);
    this.version = order;
    this.#head = JSON.stringify(this.vm).slice(0, -1);
    this.#life = seen;
  }

  static fromStored({ body, created, revision, lastSeen, heardAt }: StoredVm): VmRecord {
    return new VmRecord(JSON.parse(body) as Spec, { created, revision }, { lastSeen, heardAt });
  }

  toStored(): StoredVm {
    return { id: this.vm.id, ...this.version, body: `${this.#head}}`, ...this.#life };
  }

  get life(): LastSeen {
    return this.#life;
  }

  touch(life: LastSeen): void {
    this.#life = life;
    this.#json = undefined;
    this.#grace = 0;
  }

  /** Moment on the listening clock from which its lease counts: its last sign of life, or later in a mass loss. */
  get leaseFrom(): number {
    return this.#life.heardAt + this.#grace;
  }

  /** Its lease is over, but so are too many others for that to be the truth. */
  get isSuspect(): boolean {
    return this.#grace > 0;
  }

  /** @param grace milliseconds for which it is offered all the same, unless it is heard */
  suspect(grace: number): void {
    this.#grace = grace;
  }

  /** RFC 3339. */
  get lastSeen(): string {
    return new Date(this.#life.lastSeen).toISOString();
  }

  /** The entry as the wire has it. */
  get json(): string {
    this.#json ??= `${this.#head},"lastSeen":"${this.lastSeen}"}`;
    return this.#json;
  }

  /** Bytes of {@link json}; signs of life do not change it, since all their times are equally long. */
  get size(): number {
    this.#size ??= Buffer.byteLength(this.#head) + LAST_SEEN;
    return this.#size;
  }

  /**
   * Bytes that count for it where all entries together are bounded: an empty object takes dozens of bytes of memory, and
   * has two in JSON.
   */
  get weight(): number {
    this.#weight ??= this.size + moreOf(this.#head);
    return this.#weight;
  }

  /** The entry with more fields, for a request that asks for them. */
  jsonWith(extra: Record<string, unknown>): string {
    return `${this.json.slice(0, -1)},${JSON.stringify(extra).slice(1)}`;
  }
}

/** Of what a text has in strings it counts too much, which is little. */
function moreOf(json: string): number {
  let bytes = 0;
  for (let i = 0; i < json.length; i++) bytes += MORE[json.charCodeAt(i)] ?? 0;
  return bytes;
}

function code(character: string): number {
  return character.charCodeAt(0);
}

/** The fields in the order in which the original registry answers them; absent ones stay absent. */
function inOrder(vm: Spec): Spec {
  const { id, name, role, status, address, services, metadata, parentId, registeredBy, registeredAt } = vm;
  return {
    id,
    name,
    role,
    status,
    address,
    ...(services ? { services } : {}),
    ...(metadata ? { metadata } : {}),
    ...(parentId === undefined ? {} : { parentId }),
    registeredBy,
    registeredAt,
  };
}
