/**
 * A VM in memory: its entry as JSON, and the few fields that the registry itself uses. The entry is not retained in parsed form,
 * because that would take more memory than everything else about a VM.
 */
import { formatPosition } from '../../src/protocol/position.ts';
import { entryFault, inFieldOrder, type Role, type Status, type Vm } from '../../src/protocol/vm.ts';
import type { StoredVm } from '../store/store.ts';
import { isoTime } from './iso-time.ts';
import type { Linked, LinkedQueue } from './linked-queue.ts';

/** The last sign of life, on both clocks. */
export interface LastSeen {
  /** Wall clock, milliseconds since the epoch. */
  lastSeen: number;
  /** Listening clock, milliseconds. */
  heardAt: number;
}

/** Revisions of a VM, and the tag of its last change. */
export interface Version {
  /** Revision of the registration; lists are sorted by it. */
  created: number;
  /** Revision of the last change. */
  revision: number;
  /** Tag of the last change. Empty until the change is decided, because the tag depends on the complete change. */
  tag: string;
}

/** The declared part of an entry: every field that only a change can modify. */
export type Spec = Omit<Vm, 'lastSeen'>;

/**
 * Bytes of heap that a VM takes besides its {@link VmRecord.body}: 650 for the record and its place in the indexes, and 400 for
 * the identity of its agent. Measured with 20,000 entries of 250 to 2300 bytes, on Node 20.
 */
const RECORD_BYTES = 1050;

/** Bytes of heap for the name of a service besides its characters: a string and a pointer to it. */
const NAME_BYTES = 40;

const TIME_LENGTH = '2026-01-01T00:00:00.000Z'.length;

/** Bytes that `lastSeen` adds to the JSON of a {@link Spec}. */
const LAST_SEEN = ',"lastSeen":"2026-01-01T00:00:00.000Z"'.length;

/** Shared by all VMs without services. */
const NO_SERVICES: readonly string[] = [];

export class VmRecord implements Linked<VmRecord> {
  readonly id: string;
  readonly name: string;
  readonly role: Role;
  readonly status: Status;
  readonly parentId: string | undefined;
  /** Names of the VM's services. */
  readonly services: readonly string[];
  readonly version: Version;
  /**
   * The reason why `discover` never returns this entry: its id or address was stored before the rules for them existed, and
   * could harm a script. Undefined for a well-formed entry.
   */
  readonly fault: string | undefined;
  /** The declared fields as JSON. */
  readonly body: string;
  /** The last sign of life waits for the next save. Only {@link HeartbeatBuffer} modifies it. */
  isUnsaved = false;
  /** The queue of its lease, see {@link Linked}. */
  queue: LinkedQueue<VmRecord> | undefined;
  previous: VmRecord | undefined;
  next: VmRecord | undefined;
  // Initialized with numbers, so that V8 stores the numbers of later heartbeats in place.
  #lastSeen = 0;
  #heardAt = 0;
  /** Start of the extra lease of a suspect VM. */
  #extraLeaseFrom: number | undefined;
  #idJson: string | undefined;
  #size: number | undefined;
  #weight: number | undefined;

  /** @param body the JSON of `vm`, if it is known */
  constructor(vm: Spec, version: Version, seen: LastSeen, body = JSON.stringify(inFieldOrder(vm))) {
    this.id = vm.id;
    this.name = vm.name;
    this.role = vm.role;
    this.status = vm.status;
    this.parentId = vm.parentId;
    this.services = vm.services?.map(({ name }) => name) ?? NO_SERVICES;
    this.version = version;
    this.fault = entryFault(vm)?.message;
    this.body = body;
    this.#lastSeen = seen.lastSeen;
    this.#heardAt = seen.heardAt;
  }

  static fromStored({ body, created, revision, tag, lastSeen, heardAt }: StoredVm): VmRecord {
    return new VmRecord(JSON.parse(body) as Spec, { created, revision, tag }, { lastSeen, heardAt }, body);
  }

  toStored(): StoredVm {
    return { id: this.id, ...this.version, body: this.body, ...this.seen };
  }

  /** The declared fields. Parses {@link body} at each call, which takes microseconds, so a loop over many VMs must not use it. */
  get vm(): Spec {
    return JSON.parse(this.body) as Spec;
  }

  /** RFC 3339. It is the last field of the {@link body}, so it can be read without parsing. */
  get registeredAt(): string {
    return this.body.slice(-TIME_LENGTH - '"}'.length, -'"}'.length);
  }

  /** Position of the last change, in the text form of the API. */
  get position(): string {
    return formatPosition(this.version);
  }

  /** A copy of the times. An object per record would make every heartbeat leave garbage in the old generation of the heap. */
  get seen(): LastSeen {
    return { lastSeen: this.#lastSeen, heardAt: this.#heardAt };
  }

  /** Last sign of life: listening clock, milliseconds. */
  get heardAt(): number {
    return this.#heardAt;
  }

  /** Records a sign of life. The VM is then no longer suspect. */
  touch({ lastSeen, heardAt }: LastSeen): void {
    this.#lastSeen = lastSeen;
    this.#heardAt = heardAt;
    this.#extraLeaseFrom = undefined;
  }

  /** Start of the lease on the listening clock: the last sign of life, or later during a mass loss. */
  get leaseFrom(): number {
    return this.#extraLeaseFrom ?? this.#heardAt;
  }

  /**
   * True if the lease expired together with those of many other VMs, so a network failure is more likely than the death of this
   * VM.
   */
  get isSuspect(): boolean {
    return this.#extraLeaseFrom !== undefined;
  }

  /** @param leaseFrom start of the VM's extra lease on the listening clock; only a sign of life renews it */
  markSuspect(leaseFrom: number): void {
    this.#extraLeaseFrom = leaseFrom;
  }

  /** Ends the extra lease: the VM has become stale. */
  endSuspicion(): void {
    this.#extraLeaseFrom = undefined;
  }

  /** Last sign of life, RFC 3339. */
  get lastSeen(): string {
    return isoTime(this.#lastSeen);
  }

  /**
   * The JSON of the response to a heartbeat. Concatenated, because `JSON.stringify` would take a third of the time of a
   * heartbeat.
   */
  get heartbeatJson(): string {
    this.#idJson ??= JSON.stringify(this.id);
    return `{"id":${this.#idJson},"lastSeen":"${this.lastSeen}"}`;
  }

  /** The JSON of the entry in responses. Not cached, because the JSON of an entire fleet would take as much memory again. */
  get json(): string {
    return `${this.body.slice(0, -1)},"lastSeen":"${this.lastSeen}"}`;
  }

  /** Size of {@link json} in bytes. A sign of life does not change it, because all RFC 3339 times have the same length. */
  get size(): number {
    this.#size ??= Buffer.byteLength(this.body) + LAST_SEEN;
    return this.#size;
  }

  /** Bytes of heap that the VM takes, at most, which count towards the limit on all entries. */
  get weight(): number {
    this.#weight ??= RECORD_BYTES + stringBytes(this.body) + this.services.reduce(addName, 0);
    return this.#weight;
  }

  /** The JSON of the entry with additional fields, for a request that asks for them. */
  jsonWith(extra: Record<string, unknown>): string {
    return withFields(this.json, extra);
  }
}

/** Adds fields to the JSON of an object. Neither object may be empty. */
export function withFields(json: string, extra: object): string {
  return `${json.slice(0, -1)},${JSON.stringify(extra).slice(1)}`;
}

/** Bytes of a string in memory, at most: V8 stores all characters in two bytes each if one of them is not in Latin-1. */
function stringBytes(text: string): number {
  return Buffer.byteLength(text) === text.length ? text.length : 2 * text.length;
}

function addName(sum: number, name: string): number {
  return sum + NAME_BYTES + stringBytes(name);
}
