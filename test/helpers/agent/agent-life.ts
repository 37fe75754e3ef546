/** An agent without process, network or time: a fake registry that can fail, and sleeps that return at once. */
import { Agent, type AgentOptions } from '../../../daemon/agent/agent.ts';
import type { RegistryClient } from '../../../src/client.ts';
import type { Heartbeat, VmWithLiveness } from '../../../src/protocol/api.ts';
import { type ErrorCode, VregError } from '../../../src/protocol/errors.ts';
import type { AgentHeartbeat, HistoryAnswer } from '../../../src/protocol/heartbeat.ts';
import type { Registration, VmUpdate } from '../../../src/protocol/vm.ts';
import { aVm } from '../vm.ts';

export const LEASE = 300_000;
export const INTERVAL = 60_000;

/** A registry with one entry, whose requests can be made to fail. */
export class FakeRegistry {
  readonly url = 'http://registry.test:3000';
  readonly urls = [this.url];
  readonly server: RegistryClient['server'] = { lease: LEASE, now: 0 };
  /** Its requests, in order. */
  readonly asked: string[] = [];
  /** The bodies of the heartbeats. */
  readonly beats: (AgentHeartbeat | undefined)[] = [];
  entry: Registration | undefined;
  /** How it compares the positions of a heartbeat. */
  answerOf: (beat: AgentHeartbeat | undefined) => Partial<HistoryAnswer> = () => ({});
  /** Failures of the next requests, in order. */
  readonly failures: { code: ErrorCode; retryAfter: number | undefined; field?: string | undefined }[] = [];

  /** Token of the last request; undefined is the token with which the agent was started. */
  token: string | undefined;
  /** The limit for the timeouts of its clients, in milliseconds. */
  maxTimeout = Number.POSITIVE_INFINITY;
  /** Token that the registry issues to a VM that registers. */
  gives: string | undefined;

  useToken(token: string | undefined): void {
    this.token = token;
  }

  async register(vm: Registration): Promise<VmWithLiveness & { token?: string }> {
    this.#hear('register');
    if (this.entry) throw new VregError('CONFLICT', 'VM already registered');
    this.entry = vm;
    return { ...this.#answer(), ...(this.gives === undefined ? {} : { token: this.gives }) };
  }

  async get(): Promise<VmWithLiveness> {
    this.#hear('get');
    if (!this.entry) throw new VregError('NOT_FOUND', 'VM not found');
    return this.#answer();
  }

  async registerOrUpdate(vm: Registration): Promise<VmWithLiveness> {
    this.#hear('put');
    this.entry = vm;
    return this.#answer();
  }

  async isVreg(): Promise<boolean> {
    return true;
  }

  async update(
    _id: string,
    { services, metadata, reefConfig: _reefConfig, ...changes }: VmUpdate,
  ): Promise<VmWithLiveness> {
    this.#hear('update');
    if (!this.entry) throw new VregError('NOT_FOUND', 'VM not found');
    this.entry = { ...this.entry, ...changes, ...(services && { services }), ...(metadata && { metadata }) };
    return this.#answer();
  }

  async heartbeat(id: string, beat?: AgentHeartbeat): Promise<Heartbeat & Partial<HistoryAnswer>> {
    this.beats.push(beat);
    this.#hear('heartbeat');
    if (!this.entry) throw new VregError('NOT_FOUND', 'VM not found');
    return { id, lastSeen: '2026-01-01T00:00:00.000Z', ...this.answerOf(beat) };
  }

  async deregister(): Promise<{ deleted: true }> {
    this.#hear('deregister');
    if (!this.entry) throw new VregError('NOT_FOUND', 'VM not found');
    this.entry = undefined;
    return { deleted: true };
  }

  fail(code: ErrorCode, times = 1, retryAfter?: number, field?: string): void {
    for (let n = 0; n < times; n++) this.failures.push({ code, retryAfter, field });
  }

  #hear(what: string): void {
    this.asked.push(what);
    const failure = this.failures.shift();
    if (!failure) return;
    const { code, retryAfter, field } = failure;
    const details = { ...(field === undefined ? {} : { field }), ...(retryAfter === undefined ? {} : { retryAfter }) };
    throw new VregError(code, `the registry says ${code}`, details);
  }

  #answer(): VmWithLiveness {
    const now = '2026-01-01T00:00:00.000Z';
    return { ...this.entry!, registeredAt: now, lastSeen: now, stale: false };
  }
}

export interface Life {
  registry: FakeRegistry;
  /** Milliseconds of each sleep of the agent. */
  slept: number[];
  infos: string[];
  warnings: string[];
  /** The warnings of its ready reports. */
  ready: (string | undefined)[];
  options: AgentOptions;
}

/** The options of an agent, and records of its effects. */
export function aLife(more: Partial<AgentOptions> = {}, registry = new FakeRegistry()): Life {
  const life: Omit<Life, 'options'> = { registry, slept: [], infos: [], warnings: [], ready: [] };
  const options: AgentOptions = {
    client: registry,
    vm: aVm({ services: [{ name: 'api', port: 3001 }], metadata: { task: 'billing' } }),
    interval: INTERVAL,
    onExit: 'stopped',
    announce: true,
    registerIfMissing: true,
    log: {
      info: (_fields, message) => void life.infos.push(message),
      warn: (_fields, message) => void life.warnings.push(message),
    },
    ticks: () => 0,
    sleep: async () => {},
    onReady: (warning) => void life.ready.push(warning),
    ...more,
  };
  return { ...life, options };
}

/** Runs the agent for a number of sleeps. `during` is called in each, with its number from 1. */
export async function live(life: Life, sleeps: number, during: (sleep: number) => void = () => {}): Promise<void> {
  const controller = new AbortController();
  const sleep = async (ms: number) => {
    life.slept.push(ms);
    during(life.slept.length);
    if (life.slept.length === sleeps) controller.abort();
  };
  await new Agent({ ...life.options, sleep }).run(controller.signal);
}
