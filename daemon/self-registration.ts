/** `--self-register`: keeps the daemon's own VM registered in the registry that it serves. */
import type { Logger } from 'pino';
import type { Registration } from '../src/protocol/vm.ts';
import type { Registry } from './registry/registry.ts';

/** Heartbeats per lease, as etcd clients do: two may be late before the VM is stale. */
const HEARTBEATS_PER_LEASE = 3;

/**
 * Registers the VM or updates its entry, then sends heartbeats in-process, without network or token. An entry that is
 * removed while the daemon runs is registered again with the next heartbeat.
 * @returns a function that stops the heartbeats
 */
export async function keepSelfRegistered(registry: Registry, self: Registration, log: Logger): Promise<() => void> {
  let isRegistered = false;
  const register = async () => {
    try {
      const { entry } = await registry.replace(self, { by: self.registeredBy });
      isRegistered = true;
      const { id, role, address } = entry.vm;
      log.info({ id, role, address }, 'registered this VM');
    } catch (error) {
      // For example a full disk, on which the daemon still serves reads.
      log.warn({ err: error }, 'cannot register this VM; retrying with the next heartbeat');
    }
  };
  await register();
  const heartbeat = () => {
    if (registry.has(self.id)) registry.heartbeat(self.id);
    if (!isRegistered || !registry.has(self.id)) void register();
  };
  const timer = setInterval(heartbeat, registry.staleAfter / HEARTBEATS_PER_LEASE);
  return () => clearInterval(timer);
}
