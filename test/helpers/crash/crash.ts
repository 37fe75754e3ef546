/**
 * Writers who note what was acknowledged, and a checker who looks for it after a crash. Each writer has VMs of its own
 * and does one thing after the other, so at most one change of each writer is of unknown outcome when the daemon dies.
 */
import { Agent, type IncomingMessage, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { REVISION_HEADER } from '../../../src/protocol/api.ts';
import type { ErrorBody } from '../../../src/protocol/errors.ts';
import type { Vm } from '../../../src/protocol/vm.ts';
import type { JournalLine } from '../journal.ts';
import type { Random } from '../random.ts';
import { aVm } from '../vm.ts';

/** VMs of one writer: few, so that each is registered, changed and removed many times. */
const VMS_PER_WRITER = 4;
/** Milliseconds between two tries to reach a daemon that is not there: often enough to be there when it comes up. */
const RETRY = 5;

/** Where a daemon is: its URL, or the path of its unix socket, which outlives it. */
export type Where = { url: string } | { socketPath: string };

/** What is known of one VM. */
interface Known {
  /** As the last acknowledgement had it; undefined: there is none. */
  vm: Vm | undefined;
  /** Number of the registration, in the order of its writer. */
  registered: number;
  /** A change that was sent and not acknowledged: what the VM would be, and the number of its registration. */
  sent?: { after: Partial<Vm> | undefined; registered: number };
}

/** A registration or an update that was acknowledged, with its revision. */
export interface Acknowledged {
  vm: Vm;
  revision: number;
}

export class Writer {
  readonly #name: string;
  readonly #random: Random;
  readonly #known = new Map<string, Known>();
  /** Revision of the registry, as the last acknowledgement had it: all up to it was durable then. */
  durable = 0;
  /** In the order of their acknowledgement. */
  readonly acknowledged: Acknowledged[] = [];
  #done = 0;

  constructor(name: string, random: Random) {
    this.#name = name;
    this.#random = random;
  }

  /** Writes until the daemon is gone. @param onAcknowledged called after each acknowledgement */
  async run(url: string, onAcknowledged: () => void): Promise<void> {
    for (;;) {
      try {
        await this.#change({ url }, this.#pick());
      } catch (error) {
        if (error instanceof Unexpected) throw error;
        return;
      }
      onAcknowledged();
    }
  }

  /**
   * Writes until it is told to stop, whoever dies meanwhile: it tries again until there is a daemon, and asks that one
   * first what became of the change whose answer it has not heard.
   * @param onRefused called with an answer of 500 or more, after which nothing is changed; without it there may be none
   * @throws when what it finds is neither as it was acknowledged nor as it was sent
   */
  async outlast(
    where: Where,
    signal: AbortSignal,
    onAcknowledged: () => void,
    onRefused?: (status: number, body: ErrorBody) => void,
  ): Promise<void> {
    let unclear: string | undefined;
    while (!signal.aborted) {
      const id = unclear ?? this.#pick();
      try {
        if (unclear !== undefined) {
          await this.#learn(where, id);
          unclear = undefined;
        } else {
          await this.#change(where, id);
          onAcknowledged();
        }
      } catch (error) {
        if (error instanceof Unexpected) {
          if (!onRefused || error.status < 500) throw error;
          onRefused(error.status, JSON.parse(error.body) as ErrorBody);
          delete this.#known.get(id)!.sent;
          continue;
        }
        unclear = id;
        await setTimeout(RETRY);
      }
    }
  }

  #pick(): string {
    return `${this.#name}-${this.#random.below(VMS_PER_WRITER)}`;
  }

  /** @throws the connection's error, after which the outcome is not known; Unexpected */
  async #change(where: Where, id: string): Promise<void> {
    const known = this.#known.get(id) ?? { vm: undefined, registered: 0 };
    this.#known.set(id, known);
    const serial = ++this.#done;
    const path = '/registry/vms';
    if (!known.vm) {
      const vm = aVm({
        id,
        name: `${id} ${serial}`,
        metadata: { serial, padding: 'x'.repeat(this.#random.below(2000)) },
      });
      known.sent = { after: vm, registered: serial };
      known.vm = this.#note(await ask(where, 'POST', path, [201], vm));
      known.registered = serial;
    } else if (this.#random.below(3) > 0) {
      const update = { name: `${id} ${serial}`, status: this.#random.below(2) ? 'running' : 'paused' } as const;
      const { lastSeen: _, ...before } = known.vm;
      known.sent = { after: { ...before, ...update }, registered: known.registered };
      known.vm = this.#note(await ask(where, 'PATCH', `${path}/${id}`, [200], update));
    } else {
      known.sent = { after: undefined, registered: 0 };
      this.durable = (await ask(where, 'DELETE', `${path}/${id}`, [200])).durable;
      known.vm = undefined;
    }
    delete known.sent;
  }

  #note({ vm, revision, durable }: Answer): Vm {
    this.durable = durable;
    this.acknowledged.push({ vm, revision });
    return vm;
  }

  async #learn(where: Where, id: string): Promise<void> {
    const { status, vm } = await ask(where, 'GET', `/registry/vms/${id}`, [200, 404]);
    const found = status === 200 ? [vm] : [];
    const known = this.#known.get(id)!;
    if (!isKnown(found[0], known)) throw new Unexpected(lossOf(id, found[0], known), 0, '');
    this.#adopt(known, found[0]);
  }

  /** Changes that were acknowledged with a revision and are not in the journal, as far as it goes back. */
  findUnjournaled(journal: readonly JournalLine[]): string[] {
    const lines = new Map(journal.map((line) => [line.revision, line.id]));
    const oldest = journal[0]?.revision ?? 0;
    return this.acknowledged
      .filter(({ vm, revision }) => revision >= oldest && lines.get(revision) !== vm.id)
      .map(({ vm, revision }) => `revision ${revision} was acknowledged for ${vm.id}, and is ${lines.get(revision)}'s`);
  }

  /** What of all that was acknowledged is not so, or is there without having been said. @param vms newest first */
  findLosses(vms: readonly Vm[]): string[] {
    const losses: string[] = [];
    const found = new Map(vms.map((vm) => [vm.id, vm]));
    for (const [id, known] of this.#known)
      if (!isKnown(found.get(id), known)) losses.push(lossOf(id, found.get(id), known));
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
      this.#adopt(known, now);
    }
  }

  #adopt(known: Known, now: Vm | undefined): void {
    if (known.sent && !isSame(now, known.vm)) known.registered = known.sent.registered;
    known.vm = now;
    delete known.sent;
  }
}

export function newWriters(count: number, random: Random): Writer[] {
  return Array.from({ length: count }, (_, index) => new Writer(`writer${index}`, random));
}

/** An answer that no crash explains. */
class Unexpected extends Error {
  readonly status: number;
  readonly body: string;

  constructor(message: string, status: number, body: string) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

interface Answer {
  status: number;
  vm: Vm;
  /** Of the entry that is answered. */
  revision: number;
  /** Of the registry. */
  durable: number;
}

const agent = new Agent({ keepAlive: true });

/** @throws the connection's error; Unexpected at any other status */
async function ask(where: Where, method: string, path: string, expected: number[], body?: object): Promise<Answer> {
  const { status, headers, said } = await new Promise<{
    status: number;
    headers: IncomingMessage['headers'];
    said: string;
  }>((resolve, reject) => {
    const base = 'url' in where ? where.url : 'http://localhost';
    const socketPath = 'socketPath' in where ? { socketPath: where.socketPath } : {};
    const asked = request(base + path, { method, agent, ...socketPath }, (answer) => {
      text(answer).then((said) => resolve({ status: answer.statusCode!, headers: answer.headers, said }), reject);
    });
    asked.once('error', reject).end(body && JSON.stringify(body));
  });
  if (!expected.includes(status)) throw new Unexpected(`${method} ${path}: ${status} ${said}`, status, said);
  return {
    status,
    vm: JSON.parse(said) as Vm,
    revision: Number(headers.etag?.slice(1, -1)),
    durable: Number(headers[REVISION_HEADER]),
  };
}

/** As it was acknowledged, or as the one change of unknown outcome would have it. */
function isKnown(now: Vm | undefined, { vm, sent }: Known): boolean {
  return isSame(now, vm) || (sent !== undefined && isMadeFrom(now, sent.after));
}

function lossOf(id: string, now: Vm | undefined, { vm }: Known): string {
  return `${id} is ${JSON.stringify(now)}, but ${JSON.stringify(vm)} was acknowledged`;
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
