/**
 * A registry, as its clients see it: a typed method a route. Whatever goes wrong becomes a VregError that says what to
 * do next. It speaks only what the original registry speaks unless a method's docstring says otherwise; the query option
 * `include=liveness`, which it adds, is nothing to that one.
 */
import {
  DEFAULT_STALE_AFTER,
  type Deleted,
  type Health,
  type Heartbeat,
  INCLUDE_LIVENESS,
  LEASE_HEADER,
  type ListQuery,
  PATHS,
  VERSION_HEADER,
  type VmList,
  type VmWithLiveness,
} from './protocol/api.ts';
import { fromAnswer, VregError } from './protocol/errors.ts';
import type { Registration, Vm, VmUpdate } from './protocol/vm.ts';
import { type Reply, Transport } from './transport.ts';

/** Milliseconds to wait for an answer when nothing else is said. */
export const DEFAULT_TIMEOUT = 10_000;

export interface ClientOptions {
  url: string;
  /** Where the URL was set, for errors: `VERS_INFRA_URL`, `flag --url`. */
  origin?: string;
  token?: string | undefined;
  /** Milliseconds for one request. */
  timeout?: number;
  /** Ends every request under way. */
  signal?: AbortSignal | undefined;
  /** Told of each exchange, without its token: for `-v`. */
  trace?: (line: string) => void;
}

/** What the last answer said of the server besides its body. */
export interface ServerFacts {
  /** Version of the vreg daemon; undefined for the original registry. */
  version?: string | undefined;
  /** The server's lease in milliseconds; the original registry's where it says none. */
  lease: number;
  /** The server's clock at that answer, milliseconds since the epoch; to the second. */
  now: number;
}

export class RegistryClient {
  readonly url: string;
  readonly #options: ClientOptions;
  #transport: Transport | undefined;
  #facts: ServerFacts = { lease: DEFAULT_STALE_AFTER, now: Date.now() };

  constructor(options: ClientOptions) {
    this.url = options.url;
    this.#options = options;
  }

  get server(): ServerFacts {
    return this.#facts;
  }

  /** @throws VregError CONFLICT when the id is taken, INVALID, or any of {@link request} */
  register(registration: Registration): Promise<VmWithLiveness> {
    return this.#entry('POST', PATHS.vms, registration);
  }

  /** Newest registration first. */
  list({ role, status }: ListQuery = {}): Promise<VmWithLiveness[]> {
    return this.#entries(PATHS.vms, { role, status });
  }

  /** @throws VregError NOT_FOUND, or any of {@link request} */
  get(id: string): Promise<VmWithLiveness> {
    return this.#entry('GET', PATHS.vm(checkId(id)));
  }

  /** @throws VregError NOT_FOUND, INVALID, or any of {@link request} */
  update(id: string, update: VmUpdate): Promise<VmWithLiveness> {
    return this.#entry('PATCH', PATHS.vm(checkId(id)), update);
  }

  /** @throws VregError NOT_FOUND, or any of {@link request} */
  deregister(id: string): Promise<Deleted> {
    return this.request<Deleted>('DELETE', PATHS.vm(checkId(id)));
  }

  /** @throws VregError NOT_FOUND, or any of {@link request} */
  heartbeat(id: string): Promise<Heartbeat> {
    return this.request<Heartbeat>('POST', PATHS.heartbeat(checkId(id)));
  }

  /** The live VMs of a role, oldest registration first; none is an empty array. */
  discover(role: string): Promise<VmWithLiveness[]> {
    return this.#entries(PATHS.discover(role), {});
  }

  health(): Promise<Health> {
    return this.request<Health>('GET', PATHS.health);
  }

  /** @throws VregError UNREACHABLE, BAD_ANSWER, or the error that the registry answered with */
  async request<T>(method: string, path: string, body?: unknown): Promise<T> {
    const { token, timeout = DEFAULT_TIMEOUT, signal, trace } = this.#options;
    const headers: Record<string, string> = { accept: 'application/json' };
    if (body !== undefined) headers['content-type'] = 'application/json';
    if (token !== undefined) headers.authorization = `Bearer ${token}`;
    const started = performance.now();
    let reply: Reply;
    try {
      this.#transport ??= new Transport(this.#parsedUrl());
      const text = body === undefined ? undefined : JSON.stringify(body);
      reply = await this.#transport.send({ method, path, headers, body: text, timeout, signal });
    } catch (error) {
      throw signal?.aborted ? signal.reason : this.#unreachable(error as NodeJS.ErrnoException);
    }
    trace?.(`${method} ${this.url}${path} ${reply.status} ${Math.round(performance.now() - started)} ms`);
    this.#note(reply);
    return this.#read<T>(reply, `${method} ${path}`);
  }

  /** Closes the connection; a later request opens a new one. */
  close(): void {
    this.#transport?.close();
    this.#transport = undefined;
  }

  async #entry(method: string, path: string, body?: unknown): Promise<VmWithLiveness> {
    const vm = await this.request<Partial<Vm>>(method, path + query(INCLUDE_LIVENESS), body);
    if (typeof vm.id !== 'string') throw this.#badAnswer(`${method} ${path} with 200`);
    return this.#withLiveness(vm as Vm);
  }

  async #entries(path: string, options: Record<string, string | undefined>): Promise<VmWithLiveness[]> {
    const { vms } = await this.request<Partial<VmList>>('GET', path + query({ ...options, ...INCLUDE_LIVENESS }));
    if (!Array.isArray(vms)) throw this.#badAnswer(`GET ${path} with 200`);
    return vms.map((vm) => this.#withLiveness(vm));
  }

  /** The daemon's word; of the original registry, which says nothing, what its `lastSeen` and its clock say. */
  #withLiveness(vm: Vm & { stale?: boolean }): VmWithLiveness {
    const { lease, now } = this.#facts;
    return { ...vm, stale: vm.stale ?? now - Date.parse(vm.lastSeen) > lease };
  }

  #parsedUrl(): URL {
    const url = URL.canParse(this.url) ? new URL(this.url) : undefined;
    if (!url || !['http:', 'https:', 'unix:'].includes(url.protocol)) {
      throw new VregError('USAGE', `"${this.url}" is not the URL of a registry${this.#from()}`, {
        field: 'url',
        hint: 'write it as http://HOST:PORT, https://HOST:PORT or unix:/path/to.sock',
      });
    }
    return url;
  }

  #note({ headers }: Reply): void {
    const lease = Number(headers[LEASE_HEADER]);
    const now = Date.parse(String(headers.date));
    this.#facts = {
      version: headers[VERSION_HEADER] as string | undefined,
      lease: lease > 0 ? lease : DEFAULT_STALE_AFTER,
      now: Number.isNaN(now) ? Date.now() : now,
    };
  }

  #read<T>({ status, text }: Reply, what: string): T {
    let body: unknown;
    try {
      body = JSON.parse(text);
    } catch {
      body = undefined;
    }
    if (status >= 400) throw fromAnswer(status, body, `${what} was answered with ${status}${firstLine(text)}`);
    if (status < 200 || status > 299 || typeof body !== 'object' || body === null) {
      throw this.#badAnswer(`${what} with ${status}`);
    }
    return body as T;
  }

  #badAnswer(what: string): VregError {
    return new VregError('BAD_ANSWER', `${this.url} answered ${what}, but not with a registry's JSON`, {
      hint: `is this the registry's URL${this.#from()}?`,
    });
  }

  #unreachable(cause: NodeJS.ErrnoException): Error {
    if (cause instanceof VregError) return cause;
    const { timeout = DEFAULT_TIMEOUT, origin } = this.#options;
    const reason =
      cause.name === 'TimeoutError' ? `no answer within ${timeout / 1000} s` : (cause.code ?? cause.message);
    return new VregError(
      'UNREACHABLE',
      `cannot reach the registry at ${this.url} (${reason}${origin ? `, from ${origin}` : ''})`,
      {
        hint: 'is it running there? start one with: vreg daemon, or name another with --url or VERS_INFRA_URL',
        cause,
      },
    );
  }

  #from(): string {
    return this.#options.origin ? ` (from ${this.#options.origin})` : '';
  }
}

function query(options: Record<string, string | undefined>): string {
  const given = Object.entries(options).filter((pair): pair is [string, string] => pair[1] !== undefined);
  return given.length > 0 ? `?${new URLSearchParams(given)}` : '';
}

function firstLine(text: string): string {
  const line = text.trim().split('\n', 1)[0]!.slice(0, 120);
  return line && !line.startsWith('<') ? `: ${line}` : '';
}

/** An id that has no URL of its own would ask for something else. @throws VregError USAGE */
function checkId(id: string): string {
  if (id.trim() !== '' && id !== '.' && id !== '..') return id;
  throw new VregError('USAGE', `"${id}" is not the id of a VM`, {
    field: 'id',
    hint: 'see what is registered: vreg ls -q',
  });
}
