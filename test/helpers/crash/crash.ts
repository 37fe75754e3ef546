/**
 * Writers that record which changes were acknowledged, and check after a crash that none is lost. Each writer has its own VMs
 * and sends one change at a time, so each has at most one change of unknown outcome when the daemon dies.
 */
import { Agent, type IncomingMessage, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { POSITION_HEADER } from '../../../src/protocol/api.ts';
import type { ErrorBody } from '../../../src/protocol/errors.ts';
import { parsePosition } from '../../../src/protocol/position.ts';
import type { Vm } from '../../../src/protocol/vm.ts';
import type { JournalLine } from '../journal.ts';
import type { Random } from '../random.ts';
import { aVm } from '../vm.ts';

/** VMs of each writer: few, so that each is registered, changed and removed many times. */
const VMS_PER_WRITER = 4;
/** Milliseconds between two attempts to reach a daemon: short, so that writers are ready when it starts. */
const RETRY = 5;

/** Address of a daemon: its URL, or the path of its unix socket, which survives a restart. */
export type Where = { url: string } | { socketPath: string };

/** A writer's knowledge about one of its VMs. */
interface Known {
  /** The VM as last acknowledged; undefined if it is not registered. */
  vm: Vm | undefined;
  /** Serial number of the registration, counted by its writer. */
  registered: number;
  /** A change that was sent but not acknowledged: the VM after it, and the serial number of its registration. */
  sent?: { after: Partial<Vm> | undefined; registered: number };
}

/** An acknowledged registration or update, with its revision. */
export interface Acknowledged {
  vm: Vm;
  revision: number;
}

export class Writer {
  readonly #name: string;
  readonly #random: Random;
  readonly #known = new Map<string, Known>();
  /** Revision of the registry in the last acknowledgement. Everything up to it is durable. */
  durable = 0;
  /** Registrations and updates, in the order of their acknowledgements. */
  readonly acknowledged: Acknowledged[] = [];
  #done = 0;

  constructor(name: string, random: Random) {
    this.#name = name;
    this.#random = random;
  }

  /** Writes until the daemon dies. @param onAcknowledged called after each acknowledgement */
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
   * Writes until the signal aborts, across restarts of the daemon. After a lost response it retries until it reaches a daemon,
   * and first reads what became of the change.
   * @param onRefused called with a response of 500 or more, which changes nothing; without it such a response is an error
   * @throws if a VM is neither as it was acknowledged nor as it was sent
   */
  async runAcrossRestarts(
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

  /** @throws the error of the connection (the outcome is unknown then), Unexpected */
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

  /** @returns acknowledged changes that are missing in the journal, as far as it goes back */
  findUnjournaled(journal: readonly JournalLine[]): string[] {
    const lines = new Map(journal.map((line) => [line.revision, line.id]));
    const oldest = journal[0]?.revision ?? 0;
    return this.acknowledged
      .filter(({ vm, revision }) => revision >= oldest && lines.get(revision) !== vm.id)
      .map(
        ({ vm, revision }) =>
          `revision ${revision} was acknowledged for ${vm.id}, but belongs to ${lines.get(revision)}`,
      );
  }

  /** @returns acknowledged changes that are lost, and changes that nobody sent. @param vms newest first */
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

  /** Accepts the current VMs, which settles the changes of unknown outcome. */
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

/** A response that no crash explains. */
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
  /** Revision of the entry. */
  revision: number;
  /** Revision of the registry. */
  durable: number;
}

const agent = new Agent({ keepAlive: true });

/** @throws the error of the connection, or of a registry that is loading; Unexpected for any other status */
async function ask(where: Where, method: string, path: string, expected: number[], body?: object): Promise<Answer> {
  const { status, headers, said } = await new Promise<{
    status: number;
    headers: IncomingMessage['headers'];
    said: string;
  }>((resolve, reject) => {
    const base = 'url' in where ? where.url : 'http://localhost';
    const socketPath = 'socketPath' in where ? { socketPath: where.socketPath } : {};
    const asked = request(
      base + path,
      { method, agent, headers: { 'x-vreg-client': '1' }, ...socketPath },
      (answer) => {
        text(answer).then((said) => resolve({ status: answer.statusCode!, headers: answer.headers, said }), reject);
      },
    );
    asked.once('error', reject).end(body && JSON.stringify(body));
  });
  // As without a response: the registry has not seen the request, and the caller asks again.
  if (status === 503 && said.includes('loading its store')) throw new Error(said);
  if (!expected.includes(status)) throw new Unexpected(`${method} ${path}: ${status} ${said}`, status, said);
  return {
    status,
    vm: JSON.parse(said) as Vm,
    revision: revisionOf(headers.etag?.slice(1, -1)),
    durable: revisionOf(headers[POSITION_HEADER]),
  };
}

function revisionOf(position: string | string[] | undefined): number {
  return parsePosition(String(position))?.revision ?? Number.NaN;
}

/** Whether a VM is as it was acknowledged, or as the change of unknown outcome would make it. */
function isKnown(now: Vm | undefined, { vm, sent }: Known): boolean {
  return isSame(now, vm) || (sent !== undefined && isMadeFrom(now, sent.after));
}

function lossOf(id: string, now: Vm | undefined, { vm }: Known): string {
  return `${id} is ${JSON.stringify(now)}, but ${JSON.stringify(vm)} was acknowledged`;
}

function isSame(a: Vm | undefined, b: Vm | undefined): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Whether a VM has the whole change, and no other. */
function isMadeFrom(now: Vm | undefined, after: Partial<Vm> | undefined): boolean {
  if (!now || !after) return now === after;
  const { lastSeen: _seen, registeredAt: at, ...declared } = now;
  const { registeredAt = at, ...wanted } = after;
  const sorted = (value: object) => JSON.stringify(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  return registeredAt === at && sorted(declared) === sorted(wanted);
}
