/**
 * Writers who note what was acknowledged, and a checker who looks for it after a crash. Each writer has VMs of its own
 * and does one thing after the other, so at most one change of each writer is of unknown outcome when the daemon dies.
 */
import type { Vm } from '../../src/protocol/vm.ts';
import type { Random } from './random.ts';
import { aVm } from './vm.ts';

/** VMs of one writer: few, so that each is registered, changed and removed many times. */
const VMS_PER_WRITER = 4;

/** What is known of one VM. */
interface Known {
  /** As the last acknowledgement had it; undefined: there is none. */
  vm: Vm | undefined;
  /** Number of the registration, in the order of its writer. */
  registered: number;
  /** A change that was sent and not acknowledged: what the VM would be, and the number of its registration. */
  sent?: { after: Partial<Vm> | undefined; registered: number };
}

export class Writer {
  readonly #name: string;
  readonly #random: Random;
  readonly #known = new Map<string, Known>();
  #done = 0;

  constructor(name: string, random: Random) {
    this.#name = name;
    this.#random = random;
  }

  /** Writes until the daemon is gone. @param onAcknowledged called after each acknowledgement */
  async run(url: string, onAcknowledged: () => void): Promise<void> {
    for (;;) {
      const id = `${this.#name}-${this.#random.below(VMS_PER_WRITER)}`;
      const known = this.#known.get(id) ?? { vm: undefined, registered: 0 };
      this.#known.set(id, known);
      const serial = ++this.#done;
      const vms = `${url}/registry/vms`;
      try {
        if (!known.vm) {
          const vm = aVm({
            id,
            name: `${id} ${serial}`,
            metadata: { serial, padding: 'x'.repeat(this.#random.below(2000)) },
          });
          known.sent = { after: vm, registered: serial };
          known.vm = await change('POST', vms, 201, vm);
          known.registered = serial;
        } else if (this.#random.below(3) > 0) {
          const update = { name: `${id} ${serial}`, status: this.#random.below(2) ? 'running' : 'paused' } as const;
          const { lastSeen: _, ...before } = known.vm;
          known.sent = { after: { ...before, ...update }, registered: known.registered };
          known.vm = await change('PATCH', `${vms}/${id}`, 200, update);
        } else {
          known.sent = { after: undefined, registered: 0 };
          await change('DELETE', `${vms}/${id}`, 200);
          known.vm = undefined;
        }
      } catch (error) {
        if (error instanceof Unexpected) throw error;
        return;
      }
      delete known.sent;
      onAcknowledged();
    }
  }

  /** What of all that was acknowledged is not so, or is there without having been said. @param vms newest first */
  findLosses(vms: readonly Vm[]): string[] {
    const losses: string[] = [];
    const found = new Map(vms.map((vm) => [vm.id, vm]));
    for (const [id, { vm, sent }] of this.#known) {
      const now = found.get(id);
      if (isSame(now, vm)) continue;
      if (sent && isMadeFrom(now, sent.after)) continue;
      losses.push(`${id} is ${JSON.stringify(now)}, but ${JSON.stringify(vm)} was acknowledged`);
    }
    const mine = vms.filter(({ id }) => this.#known.has(id)).toReversed();
    const order = mine.map(({ id }) => this.#known.get(id)!).filter(({ vm, sent }) => vm && !sent);
    for (const [index, { vm, registered }] of order.entries()) {
      const next = order[index + 1];
      if (next && next.registered < registered) losses.push(`${vm!.id} is listed before ${next.vm!.id}`);
    }
    return losses;
  }

  /** Goes on from what is there: a change of unknown outcome is known now. */
  adopt(vms: readonly Vm[]): void {
    for (const [id, known] of this.#known) {
      const now = vms.find((vm) => vm.id === id);
      if (known.sent && !isSame(now, known.vm)) known.registered = known.sent.registered;
      known.vm = now;
      delete known.sent;
    }
  }
}

export function newWriters(count: number, random: Random): Writer[] {
  return Array.from({ length: count }, (_, index) => new Writer(`writer${index}`, random));
}

/** An answer that no crash explains. */
class Unexpected extends Error {}

async function change(method: string, url: string, expected: number, body?: object): Promise<Vm> {
  const response = await fetch(url, { method, ...(body ? { body: JSON.stringify(body) } : {}) });
  const text = await response.text();
  if (response.status !== expected) throw new Unexpected(`${method} ${url}: ${response.status} ${text}`);
  return JSON.parse(text) as Vm;
}

function isSame(a: Vm | undefined, b: Vm | undefined): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** The whole of a change, and nothing else. */
function isMadeFrom(now: Vm | undefined, after: Partial<Vm> | undefined): boolean {
  if (!now || !after) return now === after;
  const { lastSeen: _seen, registeredAt: at, ...declared } = now;
  const { registeredAt = at, ...wanted } = after;
  const sorted = (value: object) => JSON.stringify(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  return registeredAt === at && sorted(declared) === sorted(wanted);
}
