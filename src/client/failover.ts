/**
 * A registry with several endpoints: several URLs, or a host name with several addresses. The class {@link Endpoints} sends each
 * request to one of them and, if that one fails, to the next one:
 *
 * - The first endpoint in the order of the configuration is preferred. One that has failed is asked last until its cool-down is
 *   over, so a client stays with an endpoint that works, and later returns to the preferred one.
 * - Reads and heartbeats are sent to the next endpoint after any failure, also if another service responds with an HTML page, and
 *   if there is no response within a second. The first response wins, and the other requests are aborted.
 * - Writes are sent to the next endpoint only if they have not been written, or were refused with 503 and `Retry-After`. PUT is
 *   sent to the next endpoint after any failure, but never to two at the same time, because the second one could overwrite a
 *   change that another client has made after the first one.
 * - A write or a PUT goes to an endpoint that has responded in the last seconds; if none has, the client asks for one that is ready
 *   first, because the outcome of a write to a frozen endpoint would be unknown.
 * - While a request waits that cannot be sent twice at the same time (a write, PUT, a long poll, a backup, a stream), and while the rest of a
 *   response is missing, its endpoint is probed. If it does not respond, the request has failed.
 * - After a write, reads from another endpoint contain its position as `minPosition`, so that they include the write.
 */
import type { LookupAddress } from 'node:dns';
import { once } from 'node:events';
import { CLIENT_HEADER, DEFAULT_STALE_AFTER, PATHS, POSITION_HEADER, REGISTRY_HEADER } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { Endpoint, type EndpointMemory, type EndpointPlace, type EndpointState, nameOf } from './failover/endpoint.ts';
import { isWrite } from './outcome.ts';
import { isCertificateRefused } from './tls-hints.ts';
import {
  type Attempt,
  type Exchange,
  mayHaveAddresses,
  type OpenReply,
  type Reply,
  type Transport,
  type TransportError,
} from './transport.ts';

/**
 * Milliseconds without a response after which the next endpoint is asked. An etcd cluster elects another leader within 1 to 2 s,
 * and a registry that works responds to a read within milliseconds.
 */
const HEDGE_AFTER = 1000;
/** Mean time in milliseconds for which an endpoint that has failed is asked last: a restart is over by then. */
const COOL_DOWN = 30_000;
/** Share of the cool-down that is random, so that the clients of a restarted registry do not return together. */
const JITTER = 0.5;
/** Milliseconds for which an endpoint that has responded counts as ready for a write. */
const READY_FOR = 5000;
/** Milliseconds for which the addresses of a host name are not looked up again. */
const ADDRESSES_FOR = 60_000;
/**
 * Milliseconds for which the id of a registry is compared with the ids behind other URLs. An agent sends several heartbeats in a
 * lease; after a longer outage, the registry may have been replaced.
 */
const COMPARED_FOR = DEFAULT_STALE_AFTER;

/** Statuses with which a registry (429, 503) or a proxy in front of it (502, 504) reports that another one should be asked. */
const NOT_READY: readonly number[] = [429, 502, 503, 504];

export interface EndpointsOptions {
  urls: readonly string[];
  /** @param address to connect to instead of all addresses of the host name */
  open(url: string, address?: LookupAddress): Transport;
  /** Called for `-v` with one line per failed attempt. */
  trace?: ((line: string) => void) | undefined;
  /** Called with a warning if the URLs lead to different registries. */
  warn?: ((line: string) => void) | undefined;
  /** The state of the endpoints, which the clients of a process share. */
  memory?: EndpointMemory | undefined;
  /** Default: `dns.lookup()`. */
  lookup?: ((host: string) => Promise<LookupAddress[]>) | undefined;
  /** A monotonic clock in milliseconds. Default: that of this process. */
  now?: (() => number) | undefined;
  /** From 0 to 1. Default: `Math.random`. */
  random?: (() => number) | undefined;
}

export class Endpoints implements Transport {
  readonly #options: EndpointsOptions;
  readonly #memory: EndpointMemory;
  readonly #states: Map<string, EndpointState>;
  /** One per URL, in their order; after them one for each address of a host name, if they were needed. */
  #endpoints: readonly Endpoint[];
  /** Endpoints whose address has left the DNS, until their last request has ended. */
  readonly #retired = new Set<Endpoint>();
  #probe: Promise<unknown> | undefined;

  constructor(options: EndpointsOptions) {
    this.#options = options;
    this.#memory = options.memory ?? {};
    this.#states = this.#memory.states ??= new Map();
    const places: EndpointPlace[] = options.urls.map((url) => ({ url }));
    this.#endpoints = [...places, ...this.#knownAddresses()].map((place) => this.#endpointAt(place));
  }

  async send(exchange: Exchange): Promise<Reply> {
    const { reply, endpoint } = await this.#exchange(exchange, (to, each) => this.#sendTo(to, each));
    const { status, headers } = reply;
    const position = headers[POSITION_HEADER];
    if (exchange.method !== 'GET' && status < 300 && typeof position === 'string')
      this.#memory.written = { name: endpoint.name, position };
    return { ...reply, url: endpoint.url };
  }

  async open(exchange: Exchange): Promise<OpenReply> {
    await this.#learnAddresses(exchange);
    const answer = await this.#exchange(exchange, async (to, each) => {
      const opened = await to.transport.open(each);
      return isUnusable(opened) ? { ...opened, body: bodyOf(await opened.body.text()) } : opened;
    });
    const { reply, endpoint } = answer;
    const { body } = reply;
    return { ...reply, url: endpoint.url, body: Object.assign(this.#observed(answer), { text: () => body.text() }) };
  }

  /** The body of a stream, which ends with an error if its endpoint is frozen. */
  async *#observed({ reply, endpoint, abort, started }: Answer<OpenReply>): AsyncGenerator<Uint8Array> {
    const unwatch = this.watch(endpoint, (cause) => abort.abort(cause));
    try {
      for await (const chunk of reply.body) {
        endpoint.heard();
        yield chunk;
      }
    } catch (error) {
      this.coolDown(endpoint);
      this.trace(`stream from ${endpoint.name} ${resultOf(error as Error)} ${Math.round(this.now() - started)} ms`);
      throw error;
    } finally {
      unwatch();
    }
  }

  async retire(): Promise<void> {
    await Promise.all(this.#endpoints.map((endpoint) => endpoint.retire()));
  }

  close(): void {
    for (const endpoint of [...this.#endpoints, ...this.#retired]) endpoint.close();
  }

  async #exchange<R extends Head>(exchange: Exchange, send: Send<R>): Promise<Answer<R>> {
    const { method, path } = exchange;
    const kind = isWrite(method, path) ? 'write' : method === 'PUT' ? 'put' : WAITS.test(path) ? 'wait' : 'read';
    // Only a read is sent to an address that is not known before the first one is silent.
    if (kind !== 'read') await this.#learnAddresses(exchange);
    // The probe has a timeout of its own: a write with little time left would often have an unknown outcome.
    if (kind === 'write' || kind === 'put') await this.#findReady(exchange);
    const answer = await new Request(this, exchange, send, kind).run();
    this.#note(answer.endpoint, answer.reply);
    return answer;
  }

  /**
   * Looks up the addresses of the host names, so that a frozen one is noticed while a request waits for it. A slow resolver does
   * not delay the request for long.
   */
  async #learnAddresses({ signal }: Exchange): Promise<void> {
    if (!this.#options.urls.some((url) => mayHaveAddresses(new URL(url)))) return;
    const late = AbortSignal.timeout(HEDGE_AFTER);
    const end = signal ? AbortSignal.any([signal, late]) : late;
    await Promise.race([this.addresses(), once(end, 'abort')]);
  }

  /** Makes sure before a write that the endpoint which will be asked first has responded in the last seconds. */
  async #findReady({ timeout, signal }: Exchange): Promise<void> {
    if (this.#endpoints.length === 1 || this.now() - this.order()[0]!.state.answeredAt < READY_FOR) return;
    const probe: Exchange = { method: 'GET', path: PATHS.readyz, headers: { [CLIENT_HEADER]: '1' }, timeout, signal };
    this.#probe ??= new Request(this, probe, (to, each) => to.transport.send(each), 'read').run().finally(() => {
      this.#probe = undefined;
    });
    await this.#probe;
  }

  async #sendTo(endpoint: Endpoint, exchange: Exchange): Promise<Reply> {
    const { written } = this.#memory;
    const isElsewhere = written && written.name !== endpoint.name && this.#endpoints.some(isNamed(written.name));
    if (!isElsewhere || exchange.method !== 'GET') return endpoint.transport.send(exchange);
    const path = `${exchange.path}${exchange.path.includes('?') ? '&' : '?'}minPosition=${written.position}`;
    const reply = await endpoint.transport.send({ ...exchange, path });
    // A route or a version of vreg without this parameter. The original registry ignores it.
    const isUnknown = reply.status === 400 && reply.text.includes('unknown query parameter');
    // The registry was restored, and has lost the write.
    const isLost = reply.status === 412 && reply.text.includes('"minPosition"');
    if (isLost && this.#memory.written === written) this.#memory.written = undefined;
    return isUnknown || isLost ? endpoint.transport.send(exchange) : reply;
  }

  /** Compares the ids of the registries behind the endpoints. */
  #note({ name, state }: Endpoint, { headers }: Head): void {
    const id = headers[REGISTRY_HEADER];
    if (typeof id !== 'string' || id === state.registryId) return;
    // The registry behind this URL was replaced, so the ids behind the others may be old.
    if (state.registryId !== undefined) {
      for (const each of this.#states.values()) each.registryId = undefined;
      this.#memory.written = undefined;
    }
    state.registryId = id;
    const other = this.#endpoints.find(
      ({ state: { registryId, answeredAt } }) =>
        registryId !== undefined && registryId !== id && this.now() - answeredAt < COMPARED_FOR,
    );
    if (other) this.#options.warn?.(differentRegistries([name, id], [other.name, other.state.registryId!]));
  }

  /** Watches an endpoint while a request waits for it, if the request could go to another one. @returns ends the watch */
  watch(endpoint: Endpoint, onSilence: (cause: Error) => void): () => void {
    return this.#endpoints.length > 1 ? endpoint.watch(onSilence) : () => {};
  }

  /** Monotonic milliseconds. */
  now(): number {
    return this.#options.now?.() ?? performance.now();
  }

  trace(line: string): void {
    this.#options.trace?.(line);
  }

  /** The endpoints in the order in which a request asks them: those that have failed come last, the earliest failure first. */
  order(): Endpoint[] {
    const now = this.now();
    const [usable, cooling] = [true, false].map((isUsable) =>
      this.#endpoints.filter(({ state }) => state.retryAt <= now === isUsable),
    ) as [Endpoint[], Endpoint[]];
    return [...usable, ...cooling.sort((a, b) => a.state.failedAt - b.state.failedAt)];
  }

  /** Milliseconds without a response after which a request with this timeout is sent to the next endpoint. */
  hedgeAfter(timeout: number): number {
    return Math.min(HEDGE_AFTER, timeout / Math.max(2, this.#endpoints.length));
  }

  /** @param retryAfter seconds from `Retry-After` */
  coolDown({ state }: Endpoint, retryAfter = 0): void {
    const share = 1 + JITTER * (2 * (this.#options.random ?? Math.random)() - 1);
    state.failedAt = this.now();
    state.retryAt = state.failedAt + share * Math.max(COOL_DOWN, 1000 * retryAfter);
  }

  /**
   * Looks up the other addresses of the host names, because a connection to a name reaches one of them.
   * @returns their endpoints: the first address comes last, because the failed connection probably went to it
   */
  async addresses(): Promise<readonly Endpoint[]> {
    const { lookedUpAt = Number.NEGATIVE_INFINITY } = this.#memory;
    if (this.now() - lookedUpAt >= ADDRESSES_FOR) {
      this.#memory.lookedUpAt = this.now();
      this.#memory.lookup = this.#lookUp().then((found) => {
        this.#memory.addresses = found;
      });
    }
    await this.#memory.lookup;
    const known = new Map(this.#endpoints.map((endpoint) => [endpoint.name, endpoint]));
    const ofAddresses = this.#knownAddresses().map((place) => {
      const endpoint = this.#endpointAt(place);
      return known.get(endpoint.name) ?? endpoint;
    });
    const before = this.#endpoints;
    this.#endpoints = [...before.filter(({ address }) => address === undefined), ...ofAddresses];
    for (const endpoint of before) if (!this.#endpoints.includes(endpoint)) this.#retire(endpoint);
    return ofAddresses;
  }

  #retire(endpoint: Endpoint): void {
    this.#retired.add(endpoint);
    void endpoint.retire().then(() => this.#retired.delete(endpoint));
  }

  async #lookUp(): Promise<EndpointPlace[]> {
    const { urls, lookup = lookupAll } = this.#options;
    const names = urls.filter((url) => mayHaveAddresses(new URL(url)));
    const found = await Promise.all(
      names.map(async (url) => {
        const addresses = await lookup(new URL(url).hostname).catch(() => undefined);
        // While the resolver fails, the known addresses may still respond.
        if (!addresses) return this.#knownAddresses().filter((place) => place.url === url);
        const [first, ...others] = addresses;
        return first && others.length > 0 ? [...others, first].map((address) => ({ url, address })) : [];
      }),
    );
    return found.flat();
  }

  #knownAddresses(): EndpointPlace[] {
    return (this.#memory.addresses ?? []).filter(({ url }) => this.#options.urls.includes(url));
  }

  #endpointAt(place: EndpointPlace): Endpoint {
    const name = nameOf({ url: place.url, address: place.address?.address });
    const state = this.#states.get(name) ?? { retryAt: 0, failedAt: 0, answeredAt: Number.NEGATIVE_INFINITY };
    this.#states.set(name, state);
    const open = () => this.#options.open(place.url, place.address);
    return new Endpoint(place, state, open, () => this.now());
  }
}

/** A long poll, or a backup, whose responses are delayed. A second backup at another endpoint would only be a burden. */
const WAITS = new RegExp(`[?&]wait=|^${PATHS.backup}$`);

/** How a request is sent to the next endpoint; a `wait` is a long poll or a backup. */
type Kind = 'read' | 'wait' | 'put' | 'write';
type Head = Omit<Reply, 'text'>;
type Send<R> = (to: Endpoint, exchange: Exchange) => Promise<R>;

interface Answer<R> {
  reply: R;
  endpoint: Endpoint;
  /** Ends the stream, if the reply is one. */
  abort: AbortController;
  started: number;
}

interface Running {
  readonly endpoint: Endpoint;
  readonly abort: AbortController;
  readonly started: number;
  /** Milliseconds for which it has waited at most. */
  timeout: number;
  isSent: boolean;
  /** Ends the watch of its endpoint. */
  unwatch?: () => void;
}

/** One request, which asks one endpoint after another until one responds. */
class Request<R extends Head> {
  readonly #registry: Endpoints;
  readonly #exchange: Exchange;
  readonly #send: Send<R>;
  /** May be sent again after it was written. */
  readonly #mayRepeat: boolean;
  /** Never sent to two endpoints at the same time. */
  readonly #isPatient: boolean;
  readonly #deadline: number;
  readonly #candidates: Endpoint[];
  /** The endpoints that were candidates, so that none is added twice. */
  readonly #known: Set<Endpoint>;
  readonly #running = new Set<Running>();
  readonly #attempts: (Attempt & Pick<Running, 'started'>)[] = [];
  /** The first response with which an endpoint has refused the request. */
  #refusal: Answer<R> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #end!: { resolve(answer: Answer<R>): void; reject(error: unknown): void };

  constructor(registry: Endpoints, exchange: Exchange, send: Send<R>, kind: Kind) {
    this.#registry = registry;
    this.#exchange = exchange;
    this.#send = send;
    this.#mayRepeat = kind !== 'write';
    this.#isPatient = kind !== 'read';
    this.#deadline = registry.now() + exchange.timeout;
    this.#candidates = registry.order();
    this.#known = new Set(this.#candidates);
  }

  /** @throws the error of the last attempt, with all of them as `attempts` */
  async run(): Promise<Answer<R>> {
    try {
      return await new Promise<Answer<R>>((resolve, reject) => {
        this.#end = { resolve, reject };
        if (!this.#askNext()) this.#fail();
      });
    } finally {
      clearTimeout(this.#timer);
      this.#abortOthers();
    }
  }

  /** @returns false if there is no other endpoint, or no time left */
  #askNext(): boolean {
    const timeout = Math.ceil(this.#deadline - this.#registry.now());
    if (timeout <= 0) return false;
    let endpoint = this.#candidates.shift();
    while (endpoint?.isRetired) endpoint = this.#candidates.shift();
    if (!endpoint) return false;
    const abort = new AbortController();
    const running: Running = { endpoint, abort, started: this.#registry.now(), timeout, isSent: false };
    this.#running.add(running);
    const { signal, onSent } = this.#exchange;
    const exchange: Exchange = {
      ...this.#exchange,
      timeout,
      signal: signal ? AbortSignal.any([signal, abort.signal]) : abort.signal,
      onSent: () => {
        running.isSent = true;
        onSent?.();
        if (this.#isPatient) this.#watch(running);
      },
      onHead: (head) => {
        endpoint.heard();
        this.#watch(running);
        if (!isUnusable(head)) this.#onHead(running);
      },
    };
    this.#startTimer();
    this.#ask(running, exchange);
    return true;
  }

  async #ask(running: Running, exchange: Exchange): Promise<void> {
    let reply: R;
    try {
      reply = await this.#send(running.endpoint, exchange);
    } catch (error) {
      if (this.#running.delete(running)) this.#onError(running, error as NodeJS.ErrnoException);
      return;
    } finally {
      running.unwatch?.();
    }
    if (this.#running.delete(running)) this.#onReply(running, reply);
  }

  /** Ends the request to an endpoint that is frozen. */
  #watch(running: Running): void {
    running.unwatch ??= this.#registry.watch(running.endpoint, () => {
      running.timeout = this.#registry.now() - running.started;
      running.abort.abort(timedOut());
    });
  }

  #startTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#onSilence(), this.#registry.hedgeAfter(this.#exchange.timeout));
  }

  /** Asks the next endpoint, unless the request was sent and is patient. */
  async #onSilence(): Promise<void> {
    const [current] = this.#running;
    const isPatient = this.#isPatient;
    if (!current || (isPatient && current.isSent)) return;
    if (this.#candidates.length === 0 && this.#mayRepeat) await this.#addAddresses();
    if (this.#candidates.length === 0 || !this.#running.has(current)) return;
    if (isPatient && current.isSent) return;
    if (isPatient) {
      // Not written yet, and now it never is.
      this.#running.delete(current);
      const cause = timedOut();
      current.abort.abort(cause);
      this.#failed({ ...current, timeout: this.#registry.hedgeAfter(this.#exchange.timeout) }, cause);
    }
    this.#askNext();
  }

  #onHead(running: Running): void {
    if (!this.#running.has(running)) return;
    clearTimeout(this.#timer);
    this.#running.delete(running);
    this.#abortOthers();
    this.#running.add(running);
  }

  /** The endpoints that have not responded in time are asked again only if no other is left. */
  #abortOthers(): void {
    for (const { endpoint, abort } of this.#running) {
      this.#registry.coolDown(endpoint);
      this.#candidates.push(endpoint);
      abort.abort(new DOMException('another endpoint has responded', 'AbortError'));
    }
    this.#running.clear();
  }

  #onReply({ endpoint, abort, started }: Running, reply: R): void {
    const answer = { reply, endpoint, abort, started };
    const { status, headers } = reply;
    const retryAfter = headers['retry-after'];
    if (!isUnusable(reply) || (status === 429 && retryAfter === undefined)) {
      endpoint.state.answeredAt = this.#registry.now();
      endpoint.state.retryAt = 0;
      this.#end.resolve(answer);
      return;
    }
    this.#registry.coolDown(endpoint, Number(retryAfter) || 0);
    this.#refusal ??= answer;
    const isRefused = this.#mayRepeat || (status === 503 && retryAfter !== undefined);
    if (!isRefused) this.#end.resolve(answer);
    else {
      this.#trace(endpoint, isPage(reply) ? `${status}, a page` : String(status), started);
      void this.#goOn();
    }
  }

  #onError(running: Running, error: NodeJS.ErrnoException): void {
    const { signal } = this.#exchange;
    if (signal?.aborted || error instanceof VregError) {
      this.#end.reject(signal?.aborted ? signal.reason : error);
      return;
    }
    this.#failed(running, error);
    if (!this.#mayRepeat && running.isSent && !isCertificateRefused(String(error.code))) this.#fail();
    else void this.#goOn();
  }

  #failed({ endpoint, started, timeout }: Running, cause: NodeJS.ErrnoException): void {
    const { url, address } = endpoint;
    this.#registry.coolDown(endpoint);
    this.#attempts.push({ url, address, cause, timeout, started });
    this.#trace(endpoint, resultOf(cause), started);
  }

  async #goOn(): Promise<void> {
    if (this.#askNext() || this.#running.size > 0) return;
    if (this.#mayRepeat) await this.#addAddresses();
    if (this.#askNext()) return;
    if (this.#refusal) this.#end.resolve(this.#refusal);
    else this.#fail();
  }

  /** Adds the addresses of the host names, which another request may have looked up meanwhile. */
  async #addAddresses(): Promise<void> {
    for (const endpoint of await this.#registry.addresses()) {
      if (this.#known.has(endpoint)) continue;
      this.#known.add(endpoint);
      this.#candidates.push(endpoint);
    }
  }

  #fail(): void {
    const error: TransportError = this.#attempts.at(-1)?.cause ?? timedOut();
    // Two endpoints that were asked at the same time can fail in any order.
    const attempts = this.#attempts.sort((a, b) => a.started - b.started);
    this.#end.reject(Object.assign(error, { attempts }));
  }

  #trace(endpoint: Endpoint, result: string, started: number): void {
    const { method, path } = this.#exchange;
    const elapsed = Math.round(this.#registry.now() - started);
    this.#registry.trace(`${method} ${endpoint.name}${path} ${result} ${elapsed} ms`);
  }
}

/** True for a response after which a read is sent to the next endpoint. */
function isUnusable(reply: Head): boolean {
  return NOT_READY.includes(reply.status) || isPage(reply);
}

/** True for HTML, which a registry sends to browsers only: another service has this URL, or a proxy has no registry behind it. */
function isPage({ headers }: Head): boolean {
  return /^text\/html\b/i.test(String(headers['content-type']));
}

function timedOut(): Error {
  return Object.assign(new Error('no response in time'), { name: 'TimeoutError' });
}

function isNamed(name: string): (endpoint: Endpoint) => boolean {
  return (endpoint) => endpoint.name === name;
}

/** The code of an error of a transport, or its name: an error of the DOM has another kind of code. */
function resultOf({ code, name }: NodeJS.ErrnoException): string {
  return typeof code === 'string' ? code : name;
}

function differentRegistries(...found: readonly [[name: string, id: string], [name: string, id: string]]): string {
  const [a, b] = found.map(([name, id]) => `${name} is the registry ${id}`);
  return `the URLs lead to different registries: ${a}, but ${b}; configure URLs of one registry only`;
}

async function lookupAll(host: string): Promise<LookupAddress[]> {
  const { lookup } = process.getBuiltinModule('node:dns/promises');
  return lookup(host, { all: true });
}

function bodyOf(text: string): OpenReply['body'] {
  const bytes = Buffer.from(text);
  return {
    text: async () => text,
    async *[Symbol.asyncIterator]() {
      yield bytes;
    },
  };
}
