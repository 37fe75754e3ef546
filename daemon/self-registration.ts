/** The daemon's own VM as an entry of the registry that it serves. */
import type { Logger } from 'pino';
import type { Registration } from '../src/protocol/vm.ts';
import type { Registry } from './registry/registry.ts';

/**
 * Registers the VM, or brings its entry up to date, and beats for it from inside: no network, no token.
 * Somebody who removes the entry while the daemon runs gets it back with the next beat.
 */
export async function keepSelfRegistered(
  registry: Registry,
  self: Registration,
  log: Logger,
): Promise<{ stop(): void }> {
  let announced = false;
  const announce = async () => {
    const { entry } = await registry.replace(self, { by: self.registeredBy });
    announced = true;
    const { id, role, address } = entry.vm;
    log.info({ id, role, address }, 'registered this VM');
  };
  // A disk that is full just now is no reason not to serve.
  const tryToAnnounce = () =>
    announce().catch((error) => log.warn({ err: error }, 'cannot register this VM; tried again with the next beat'));
  await tryToAnnounce();
  const beat = () => {
    if (registry.has(self.id)) registry.heartbeat(self.id);
    if (!announced || !registry.has(self.id)) void tryToAnnounce();
  };
  // A third of the lease, as etcd's clients beat: two may be late before anybody notices.
  const timer = setInterval(beat, registry.staleAfter / 3);
  return { stop: () => clearInterval(timer) };
}
