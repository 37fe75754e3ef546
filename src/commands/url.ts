import { defineCommand } from '../command.ts';
import { askOrReadCache, type MaxStaleFlags } from '../fleet/address-cache.ts';
import {
  HAS_SERVICE_FLAG,
  MAX_STALE_FLAG,
  PICK_FLAG,
  type Pick,
  ROLE_ARGUMENT,
  SCHEME_FLAG,
  TRUST_FLAGS,
  WAIT_FLAG,
} from '../fleet/flags.ts';
import { type LiveFlags, liveVms, pickOne } from '../fleet/lookup.ts';
import { type UrlParts, urlOf } from '../fleet/vm-url.ts';
import { exclusiveFlags } from '../protocol/errors.ts';
import { printable } from '../protocol/redact.ts';

export const url = defineCommand<LiveFlags & UrlParts & MaxStaleFlags & { pick?: Pick }>({
  name: 'url',
  summary: 'print the URL of a live VM with the given role',
  description:
    'Prints a URL of a live VM with the given role on one line, for use in scripts. The URL consists of the address of the VM, a port and --path. The port is that of --service or, without it, the port in the address or the only port of the VM; if the VM has several ports or none, the exit code is 5. The scheme is --scheme, else the protocol of the service, else https if the registry has an https URL in the same domain, else http. If there is no live VM, prints nothing and exits with code 3.',
  arguments: [ROLE_ARGUMENT],
  flags: [
    HAS_SERVICE_FLAG,
    SCHEME_FLAG,
    { flags: '--path <path>', about: 'path to append, e.g. /board/tasks' },
    PICK_FLAG,
    ...TRUST_FLAGS,
    WAIT_FLAG,
    MAX_STALE_FLAG,
  ],
  examples: [
    { about: 'query the board on the infra VM', command: 'curl "$(vreg url infra --path /board/tasks)"' },
    { about: 'the URL of a service on a lieutenant', command: 'vreg url lieutenant --service pi-rpc' },
    { about: 'the newest worker, over TLS', command: 'vreg url worker --pick newest --scheme https' },
  ],
  exits: [2, 3, 6, 8, 10],
  async run(context, [role], flags) {
    const { maxStale } = flags;
    const part = (['service', 'scheme', 'path'] as const).find((name) => flags[name] !== undefined);
    if (maxStale !== undefined && part !== undefined)
      throw exclusiveFlags('--max-stale', `--${part}`, 'the agent caches plain URLs only; or use: vreg addr');
    const found = await askOrReadCache(context, { role: role!, file: 'url', maxStale }, async () => {
      const vm = pickOne(await liveVms(context, role!, flags), flags);
      return { id: vm.id, url: urlOf(vm, context.client().urls, flags) };
    });
    const data = typeof found === 'string' ? { id: undefined, url: found } : found;
    await context.print({ kind: 'value', text: printable(data.url), data });
  },
});
