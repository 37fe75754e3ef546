/** The servers that the benchmark compares: the daemon as operators run it, the floor, and a peer. */
import { type ChildProcess, fork, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { heapTooSmall, neededHeap } from '../../daemon/limits/heap.ts';
import type { Issued } from '../helpers/certificates.ts';
import { BIN, cleanEnv } from '../helpers/daemon.ts';
import { killAtExit } from './cleanup.ts';
import type { Blocks } from './event-loop.ts';
import type { Target } from './load.ts';

const PROBE = pathToFileURL(join(import.meta.dirname, 'probe.mjs')).href;
/** Milliseconds between two looks into the log of a daemon that starts. */
const POLL = 5;

/** Paths of PEM files: a certificate, its key, and the authority that issued it. */
export type Tls = Issued & { ca: string };

export interface Usage {
  /** CPU time of all threads since the start, microseconds. */
  cpu: number;
  /** Resident set size, bytes. */
  memory: number;
  /** Its maximum since the start, bytes. */
  peak: number;
}

export interface Server extends Target {
  /** Undefined for a peer, whose process the benchmark does not know. */
  probe?: Probe;
}

/** Questions to a server that has preloaded probe.mjs. */
export class Probe {
  readonly #child: ChildProcess;

  constructor(child: ChildProcess) {
    this.#child = child.setMaxListeners(0);
  }

  usage(): Promise<Usage> {
    return this.#ask('usage');
  }

  async startSampler(): Promise<void> {
    await this.#ask('startSampler');
  }

  /** @returns the blocks of the event loop since the start of the sampler */
  stopSampler(): Promise<Blocks> {
    return this.#ask('stopSampler');
  }

  #ask<T>(question: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const onMessage = (message: { question?: string; answer: T }) => {
        if (message.question === question) settle(() => resolve(message.answer));
      };
      const onExit = () => settle(() => reject(new Error('the server has exited')));
      const settle = (result: () => void) => {
        this.#child.off('message', onMessage).off('exit', onExit);
        result();
      };
      this.#child.on('message', onMessage).on('exit', onExit);
      this.#child.send({ question });
    });
  }
}

/** Starts Node with the probe. @param stderr file descriptor of its log */
export function spawnProbed(args: readonly string[], env: NodeJS.ProcessEnv, stderr: number = 2): ChildProcess {
  const stdio: StdioOptions = ['ignore', 'ignore', stderr, 'ipc'];
  return killAtExit(spawn(process.execPath, ['--import', PROBE, ...args], { env, stdio }));
}

export async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

export interface DaemonOptions {
  /** Folder of its log, and of the configuration that it does not have. */
  home: string;
  dataDir: string;
  maxVms: number;
  token?: string;
  tls?: Tls;
  /** URL of the store, instead of the data dir. */
  store?: string;
}

export class Daemon implements Server {
  readonly probe: Probe;

  private constructor(
    readonly child: ChildProcess,
    readonly url: string,
    /** Milliseconds from its start until it listened. */
    readonly startTime: number,
    readonly token: string | undefined,
    readonly ca: Buffer | undefined,
  ) {
    this.probe = new Probe(child);
  }

  /** Starts the daemon as operators run it: with its audit log in a file, and a larger heap if so many VMs need it. */
  static async start({ home, dataDir, maxVms, token, tls, store }: DaemonOptions): Promise<Daemon> {
    const logFile = join(home, `daemon-${process.hrtime.bigint()}.log`);
    const log = openSync(logFile, 'a');
    const flags = { port: 0, 'data-dir': dataDir, 'max-vms': maxVms, 'log-level': 'info', 'log-format': 'json' };
    const args = [
      ...[BIN, 'daemon', ...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)])],
      // The stored fleet stays live for as long as the benchmark takes.
      ...['--stale-after', '24h'],
      ...(store ? ['--store', store] : []),
      ...(tls ? ['--tls-cert', tls.cert, '--tls-key', tls.key] : []),
    ];
    const env = cleanEnv(home, {
      ...(token === undefined ? {} : { VERS_AUTH_TOKEN: token }),
      ...(heapTooSmall(maxVms) ? { NODE_OPTIONS: `--max-old-space-size=${neededHeap(maxVms)}` } : {}),
    });
    const started = performance.now();
    const child = spawnProbed(args, env, log);
    closeSync(log);
    for (;;) {
      const text = readFileSync(logFile, 'utf8');
      const [, url] = /listening on (https?:\/\/[\w.:[\]]+\d)/.exec(text) ?? [];
      const time = performance.now() - started;
      if (url) return new Daemon(child, url, time, token, tls && readFileSync(tls.ca));
      if (child.exitCode !== null) throw new Error(`the daemon ended: ${text}`);
      await sleep(POLL);
    }
  }

  end(): Promise<void> {
    return endProcess(this.child);
  }
}

/** A floor: raw-server.ts or appending-server.ts in a process of its own. */
export class RawServer implements Server {
  readonly probe: Probe;
  readonly #child: ChildProcess;
  readonly #home: string;

  private constructor(
    child: ChildProcess,
    home: string,
    readonly url: string,
    readonly ca: Buffer | undefined,
  ) {
    this.#child = child;
    this.#home = home;
    this.probe = new Probe(child);
  }

  static start(home: string, tls?: Tls): Promise<RawServer> {
    return RawServer.#fork('raw-server.ts', tls ? [tls.key, tls.cert] : [], home, tls);
  }

  /** Starts a server that appends the body of each request to a file in its home, and waits for the disk. */
  static startAppending(home: string): Promise<RawServer> {
    return RawServer.#fork('appending-server.ts', [join(home, 'appended')], home);
  }

  static async #fork(program: string, args: readonly string[], home: string, tls?: Tls): Promise<RawServer> {
    const options = { execArgv: [...process.execArgv, '--import', PROBE], env: cleanEnv(home), silent: true };
    const child = killAtExit(fork(join(import.meta.dirname, program), args, options));
    child.stderr!.pipe(process.stderr);
    const [port] = (await once(child.stdout!, 'data')) as [Buffer];
    const url = `${tls ? 'https' : 'http'}://127.0.0.1:${Number(port)}`;
    return new RawServer(child, home, url, tls && readFileSync(tls.ca));
  }

  /** Sets the body of all its responses. In a file, because messages are copied as text. */
  async setBody(body: Buffer): Promise<void> {
    const file = join(this.#home, 'raw-body');
    writeFileSync(file, body);
    this.#child.send({ body: file });
    // It answers when it has handled the message before.
    await this.probe.usage();
  }

  end(): Promise<void> {
    return endProcess(this.#child);
  }
}
