/** Planted bugs that the model of the wire must find. A fuzzer that misses them is useless. */
import type { Registry } from '../../daemon/registry/registry.ts';

/** For each bug, a pattern that the failure must match, and a function that breaks the registry. */
export const PLANTED = {
  'a PATCH that ignores the address': [
    /PATCH .*"address"/,
    (registry: Registry) => {
      const update = registry.update.bind(registry);
      registry.update = (id, { address: _ignored, ...rest }, options) => update(id, rest, options);
    },
  ],
  'a removal that lets another VM go': [
    /DELETE /,
    (registry: Registry) => {
      const deregister = registry.deregister.bind(registry);
      registry.deregister = async (id, options) => {
        const position = await deregister(id, options);
        if (registry.has('b')) await deregister('b', {});
        return position;
      };
    },
  ],
  'a write that ignores If-Match': [
    /PUT .*"if-(none-)?match"/,
    (registry: Registry) => {
      const replace = registry.replace.bind(registry);
      registry.replace = (registration, options) => replace(registration, { ...options, expect: undefined });
    },
  ],
  'an update that is a sign of life whatever it says': [
    /PATCH /,
    (registry: Registry) => {
      const update = registry.update.bind(registry);
      registry.update = async (id, change, options) => {
        await update(id, change, options);
        return registry.heartbeat(id);
      };
    },
  ],
} satisfies Record<string, [says: RegExp, plant: (registry: Registry) => void]>;
