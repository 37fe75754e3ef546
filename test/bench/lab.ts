/** The servers for one size of the fleet. Each is started when the first row needs it, and serves all rows. */
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { makeAuthorityIn } from '../helpers/certificates.ts';
import { storeFleet } from './fleet.ts';
import { heartbeatAll } from './heartbeats.ts';
import type { Options } from './options.ts';
import type { Peer } from './peer.ts';
import { Daemon, RawServer, type Tls } from './servers.ts';

/** How clients reach the daemon: without a token, with one, or with one over TLS. */
export type Access = 'open' | 'token' | 'tls';

/** A token that the daemon accepts: long, and without a meaning. */
const TOKEN = 'b5d1b3c4f2a9c1e8f6e4c579d0b7a51c';
/** VMs that the rows may add to the fleet. */
const SPARE_VMS = 100_000;

interface Closable {
  end(): Promise<void>;
}

export class Lab {
  readonly #started = new Map<string, Promise<Closable>>();
  #tls: Tls | undefined;

  constructor(
    readonly options: Options,
    /** Folder of this lab. */
    readonly home: string,
    /** Size of the fleet. */
    readonly vms: number,
    readonly peer: Peer | undefined,
  ) {}

  /** The peer with the same fleet, if there is one. */
  async filledPeer(): Promise<Peer | undefined> {
    await this.peer?.fill(this.vms);
    return this.peer;
  }

  /** The daemon with the stored fleet, of which every VM has just sent a heartbeat. */
  daemon(access: Access): Promise<Daemon> {
    return this.#once(`daemon ${access}`, async () => {
      const daemon = await this.startDaemon(await this.copyFleet(access), access);
      await heartbeatAll(daemon, this.vms);
      return daemon;
    });
  }

  /** The raw server. */
  raw(access: Access): Promise<RawServer> {
    const isTls = access === 'tls';
    return this.#once(`raw ${isTls}`, () => RawServer.start(this.home, isTls ? this.#certificate() : undefined));
  }

  /** Starts another daemon. The caller ends it. */
  startDaemon(dataDir: string, access: Access = 'open', { store }: { store?: string } = {}): Promise<Daemon> {
    return Daemon.start({
      home: this.home,
      dataDir,
      maxVms: this.vms + SPARE_VMS,
      ...(store === undefined ? {} : { store }),
      ...(access === 'open' ? {} : { token: TOKEN }),
      ...(access === 'tls' ? { tls: this.#certificate() } : {}),
    });
  }

  /** Copies the data dir of the fleet. @param name of the copy @returns its path */
  async copyFleet(name: string): Promise<string> {
    const fleet = join(this.home, 'fleet');
    if (!existsSync(fleet)) await storeFleet(fleet, this.vms);
    const copy = join(this.home, `data-${name}`);
    cpSync(fleet, copy, { recursive: true });
    return copy;
  }

  async end(): Promise<void> {
    for (const started of this.#started.values()) await (await started.catch(() => undefined))?.end();
  }

  #once<T extends Closable>(key: string, start: () => Promise<T>): Promise<T> {
    const started = this.#started.get(key) ?? start();
    this.#started.set(key, started);
    return started as Promise<T>;
  }

  #certificate(): Tls {
    this.#tls ??= issueCertificate(join(this.home, 'ca'));
    return this.#tls;
  }
}

function issueCertificate(dir: string): Tls {
  mkdirSync(dir);
  const authority = makeAuthorityIn(dir, 'bench');
  return { ca: authority.ca, ...authority.issue('server') };
}
