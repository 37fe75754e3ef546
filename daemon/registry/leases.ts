/**
 * Who was heard when, in the order of the last sign of life, so that a sweep looks only at those whose lease has run
 * out and never at the whole fleet.
 *
 * When very many leases run out together it is more likely the network that is lost than the VMs. Those are *suspect* for
 * one more lease, and still offered; then they go, so a fleet that was shrunk on purpose is not kept for ever (Eureka's
 * self-preservation is: Netflix/eureka#1267).
 */
import { beatInterval } from '../../src/protocol/api.ts';
import type { VmRecord } from './vm-record.ts';

/** Fewer VMs than this are never a mass: one rack, or one deployment, is lost for real. */
const LEAST_LOST = 10;

export interface Gone {
  stale: VmRecord[];
  suspect: VmRecord[];
}

export class Leases {
  /** Entries that are not stale as of the last sweep, longest silent first. */
  readonly #fresh = new Map<string, VmRecord>();
  readonly #suspect = new Map<string, VmRecord>();
  /** Ids of those that are stale. */
  readonly #stale = new Set<string>();
  readonly #lease: number;
  readonly #share: number;

  /**
   * @param lease milliseconds of listening time
   * @param share of the live VMs, 0 to 1, that must fall silent together to be suspect instead of stale; 1 turns it off
   */
  constructor(lease: number, share = 1) {
    this.#lease = lease;
    this.#share = share;
  }

  /** Takes the entries in at the start, and says nothing of those that are stale already. */
  load(entries: Iterable<VmRecord>, horizon: number): void {
    for (const entry of [...entries].sort((a, b) => a.life.heardAt - b.life.heardAt)) {
      if (entry.life.heardAt < horizon) this.#stale.add(entry.vm.id);
      else this.#fresh.set(entry.vm.id, entry);
    }
  }

  /** @returns true when the VM was stale or suspect until now */
  heard(entry: VmRecord): boolean {
    const { id } = entry.vm;
    // Deleted first, since setting a key that is there would leave it in its old place.
    this.#fresh.delete(id);
    this.#fresh.set(id, entry);
    return this.#stale.delete(id) || this.#suspect.delete(id);
  }

  /** An entry that replaces the one of its id without a sign of life keeps that one's place. */
  replace(entry: VmRecord): void {
    const { id } = entry.vm;
    if (this.#fresh.has(id)) this.#fresh.set(id, entry);
    if (this.#suspect.has(id)) {
      this.#suspect.set(id, entry);
      entry.suspect(this.#lease);
    }
  }

  forget(id: string): void {
    this.#fresh.delete(id);
    this.#suspect.delete(id);
    this.#stale.delete(id);
  }

  /** True when a {@link sweep} would find something. */
  isDue(horizon: number): boolean {
    return isFirstDue(this.#fresh, horizon) || isFirstDue(this.#suspect, horizon);
  }

  /** @returns those whose lease began before `horizon` and who were not gone at the last sweep */
  sweep(horizon: number): Gone {
    const due = takeDue(this.#fresh, horizon);
    const gone: Gone = { stale: takeDue(this.#suspect, horizon), suspect: [] };
    const isMass = due.length > 0 && this.#isMassLoss(due, horizon);
    for (const entry of due) {
      if (!isMass || entry.vm.status !== 'running') gone.stale.push(entry);
      else {
        entry.suspect(this.#lease);
        this.#suspect.set(entry.vm.id, entry);
        gone.suspect.push(entry);
      }
    }
    for (const { vm } of gone.stale) this.#stale.add(vm.id);
    return gone;
  }

  /**
   * VMs are lost one by one, as their beats were spread. So those count that have missed a beat and would be lost within
   * the next interval, and those that are suspect already.
   */
  #isMassLoss(due: readonly VmRecord[], horizon: number): boolean {
    if (this.#share >= 1) return false;
    const soon = horizon + beatInterval(this.#lease);
    let lost = countRunning(due) + countRunning(this.#suspect.values());
    let live = lost;
    for (const { vm, life } of this.#fresh.values()) {
      if (vm.status !== 'running') continue;
      live++;
      if (life.heardAt < soon) lost++;
    }
    return lost >= LEAST_LOST && lost > this.#share * live;
  }
}

function isFirstDue(entries: Map<string, VmRecord>, horizon: number): boolean {
  const first = entries.values().next();
  return !first.done && first.value.leaseFrom < horizon;
}

function takeDue(entries: Map<string, VmRecord>, horizon: number): VmRecord[] {
  const due: VmRecord[] = [];
  for (const entry of entries.values()) {
    if (entry.leaseFrom >= horizon) break;
    due.push(entry);
  }
  for (const { vm } of due) entries.delete(vm.id);
  return due;
}

function countRunning(entries: Iterable<VmRecord>): number {
  let count = 0;
  for (const { vm } of entries) if (vm.status === 'running') count++;
  return count;
}
