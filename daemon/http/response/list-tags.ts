/**
 * Weak ETags of lists. The tag of a list changes with its membership, its order, and the declared fields and the liveness of its
 * VMs, but not with `lastSeen`. It may also change without such a difference.
 */
import { randomUUID } from 'node:crypto';
import { tagOf } from '../../../src/protocol/position.ts';
import type { Snapshot } from '../../registry/vm-snapshot.ts';

export class ListTags {
  /** A restarted daemon counts changes from 0 again, so it must not create the tags of its previous run. */
  readonly #start = randomUUID();
  /** Hashing takes a tenth of the time of a request for a short list. */
  readonly #known = new WeakMap<Snapshot, string>();

  /**
   * @param state identifies the content among all contents of this run
   * @param request route, query and restriction of the reader
   */
  of(state: string, request: unknown): string {
    return `W/"${tagOf(this.#start, state, JSON.stringify(request))}"`;
  }

  /** The tag of a snapshot with at least one VM, computed once. */
  ofSnapshot(snapshot: Snapshot, compute: () => string): string {
    const known = this.#known.get(snapshot);
    if (known !== undefined) return known;
    const tag = compute();
    // Empty lists of all roles can be the same snapshot.
    if (snapshot.count > 0) this.#known.set(snapshot, tag);
    return tag;
  }
}

/** True if `If-None-Match` contains a tag. Weak and strong tags count as equal (RFC 9110, 13.1.2). */
export function includesTag(header: string, tag: string): boolean {
  return header.split(',').some((part) => ['*', tag, tag.slice('W/'.length)].includes(part.trim()));
}
