import { defineCommand } from '../command.ts';
import { askOrReadCache, type MaxStaleFlags } from '../fleet/address-cache.ts';
import {
  HAS_SERVICE_FLAG,
  MAX_STALE_FLAG,
  PICK_FLAG,
  type Pick,
  ROLE_ARGUMENT,
  TRUST_FLAGS,
  WAIT_FLAG,
} from '../fleet/flags.ts';
import { type LiveFlags, liveVms, pickOne } from '../fleet/lookup.ts';
import { exclusiveFlags } from '../protocol/errors.ts';
import { printable } from '../protocol/redact.ts';

export const addr = defineCommand<LiveFlags & MaxStaleFlags & { pick?: Pick }>({
  name: 'addr',
  summary: 'print the address of a live VM with the given role',
  description:
    'Prints the address of a live VM with the given role on one line, for use in scripts. If there is none, prints nothing and exits with code 3.',
  arguments: [ROLE_ARGUMENT],
  flags: [HAS_SERVICE_FLAG, PICK_FLAG, ...TRUST_FLAGS, WAIT_FLAG, MAX_STALE_FLAG],
  examples: [
    { about: 'the infra VM; stop the script if there is none', command: 'INFRA=$(vreg addr infra) || exit' },
    { about: 'a random worker', command: 'vreg addr worker --pick random' },
    { about: 'accept a cached answer while the registry is down', command: 'vreg addr infra --max-stale 1h' },
    { about: 'wait for the first lieutenant', command: 'vreg addr lieutenant --wait 30s' },
  ],
  exits: [2, 3, 6, 8, 10],
  async run(context, [role], flags) {
    if (flags.maxStale !== undefined && flags.service !== undefined) {
      throw exclusiveFlags('--max-stale', '--service', 'omit --service: the agent caches one address per role');
    }
    const found = await askOrReadCache(context, { role: role!, file: 'addr', maxStale: flags.maxStale }, async () =>
      pickOne(await liveVms(context, role!, flags), flags),
    );
    const { id, address } = typeof found === 'string' ? { id: undefined, address: found } : found;
    await context.print({ kind: 'value', text: printable(address), data: { id, address } });
  },
});
