import { defineCommand } from '../command.ts';
import { formatNames, parseDuration } from '../config/values.ts';
import { getIfStale, listVms, ROLE_FLAG, YES_FLAG } from '../fleet/selection.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { formatDuration } from '../protocol/duration.ts';
import { missingFlag } from '../protocol/errors.ts';
import { each, throwFailed } from '../run/batch.ts';

interface Flags {
  olderThan?: string;
  role?: string[];
  dryRun?: boolean;
  yes?: boolean;
}

/** Maximum number of names to list in the prompt. */
const MAX_LISTED = 5;

export const prune = defineCommand<Flags>({
  name: 'prune',
  summary: 'remove VMs that have been stale for a long time',
  description:
    'Removes and prints stale VMs that have not been seen for longer than --older-than. Paused and stopped VMs are not affected. Unless --yes is given, shows how many VMs match and the names of the first few, and asks for confirmation. A VM that sends a heartbeat in the meantime is not removed.',
  flags: [
    { flags: '--older-than <duration>', about: 'minimum time since the VM was last seen, e.g. 1h' },
    ROLE_FLAG,
    { flags: '-n, --dry-run', about: 'print what would be removed, and remove nothing' },
    YES_FLAG,
  ],
  examples: [
    { about: 'preview the removal', command: 'vreg prune --older-than 1h --dry-run' },
    { about: 'remove workers that have been silent for a day', command: 'vreg prune --older-than 24h --role worker' },
    { about: 'run from cron', command: 'vreg prune --older-than 24h --yes' },
  ],
  exits: [2, 3, 6, 7, 8],
  async run(context, _args, { olderThan, role = [], dryRun, yes }) {
    if (olderThan === undefined) {
      throw missingFlag('--older-than', 'for example: vreg prune --older-than 1h --dry-run');
    }
    const age = parseDuration(olderThan, '--older-than');
    const client = context.client();
    const stale = await listVms(client, { role, stale: true });
    const { now } = client.server;
    const old = stale.filter(({ lastSeen }) => now - Date.parse(lastSeen) > age);
    const none = `no VM has been stale for more than ${formatDuration(age)}`;
    if (dryRun || old.length === 0) return context.print(vmsAnswer(old, { none }));
    const names = old.map(({ name }) => name);
    await context.confirm(
      `Remove ${old.length} VM${old.length > 1 ? 's' : ''} (${formatNames(names, MAX_LISTED)}) from the registry?`,
      yes,
    );
    const { done, failed } = await each(context, old, async ({ id }) => {
      const vm = await getIfStale(context, id);
      if (!vm) return [];
      await client.deregister(id);
      return [vm];
    });
    if (done.flat().length > 0) await context.print(vmsAnswer(done.flat()));
    throwFailed(context, old.length, failed, ({ id }) => id);
  },
});
