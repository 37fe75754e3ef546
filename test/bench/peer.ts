/** Another server with the compatible routes, such as the original registry. It gets the same fleet as the daemon. */
import { PATHS, type VmList } from '../../src/protocol/api.ts';
import { idOf, nthVm } from './fleet.ts';
import { Load, readBody, requestOf } from './load.ts';
import { UsageError } from './options.ts';
import type { Server } from './servers.ts';

/** Connections that register the fleet. */
const CONNECTIONS = 16;

export class Peer implements Server {
  readonly token = undefined;
  #vms = 0;

  private constructor(readonly url: string) {}

  /** @throws UsageError if the peer is not reachable or not empty */
  static async open(url: string): Promise<Peer> {
    const peer = new Peer(url);
    const body = await readBody(peer, 'GET', PATHS.vms).catch((error: Error) => {
      throw new UsageError(`--peer: cannot read ${url}${PATHS.vms} (${error.message})`);
    });
    const { count } = JSON.parse(body.toString()) as VmList;
    if (count !== 0) throw new UsageError(`--peer: ${url} has ${count} VMs, but must be empty for a fair comparison`);
    return peer;
  }

  /** Grows its fleet. @param vms number of VMs, at least as many as before */
  async fill(vms: number): Promise<void> {
    await this.#send(() => {
      if (this.#vms >= vms) return undefined;
      return requestOf('POST', PATHS.vms, this, JSON.stringify(nthVm(this.#vms++)));
    });
  }

  /** Removes the fleet. */
  async end(): Promise<void> {
    await this.#send(() =>
      this.#vms === 0 ? undefined : requestOf('DELETE', `${PATHS.vms}/${idOf(--this.#vms)}`, this),
    );
  }

  async #send(next: () => Buffer | undefined): Promise<void> {
    const load = await Load.open(this, CONNECTIONS);
    await load.run({ next }).finally(() => load.close());
  }
}
