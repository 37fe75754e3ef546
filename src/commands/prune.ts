import { defineCommand } from '../command.ts';
import { formatDuration, parseDuration } from '../config/duration.ts';
import { livenessOf, vmsAnswer } from '../fleet/table.ts';
import { VregError } from '../protocol/errors.ts';
import { ROLES } from '../protocol/vm.ts';
import { each, throwFailed } from '../run/batch.ts';

interface Flags {
  olderThan?: string;
  role?: string;
  dryRun?: boolean;
  yes?: boolean;
}

/** Names in the question before it says "and N more". */
const NAMED = 5;

export const prune = defineCommand<Flags>({
  name: 'prune',
  summary: 'remove VMs that have been stale for long',
  description:
    'Removes running VMs that are stale and were last seen longer ago than --older-than. Paused and stopped VMs are left alone. Asks first, with the count and the first names; a script says --yes. A VM that is heard of meanwhile stays. Prints what it removed.',
  flags: [
    { flags: '--older-than <duration>', about: 'last seen longer ago than that, e.g. 1h' },
    { flags: '--role <role>', about: 'only this role', values: ROLES },
    { flags: '-n, --dry-run', about: 'print what would be removed, and remove nothing' },
    { flags: '-y, --yes', about: 'do not ask' },
  ],
  examples: [
    { about: 'what would go?', command: 'vreg prune --older-than 1h --dry-run' },
    { about: 'workers that are gone since yesterday', command: 'vreg prune --older-than 24h --role worker' },
    { about: 'from cron', command: 'vreg prune --older-than 24h --yes' },
  ],
  exits: [2, 3, 7, 8],
  async run(context, _args, { olderThan, role, dryRun, yes }) {
    if (olderThan === undefined) {
      throw new VregError('USAGE', '--older-than is required', {
        field: 'older-than',
        hint: 'for example: vreg prune --older-than 1h --dry-run',
      });
    }
    const age = parseDuration(olderThan, '--older-than');
    const client = context.client();
    const vms = await client.list({ ...(role && { role }) });
    const { now } = client.server;
    const old = vms.filter((vm) => livenessOf(vm) === 'stale' && now - Date.parse(vm.lastSeen) > age);
    const none = `no VM has been stale for more than ${formatDuration(age)}`;
    if (dryRun || old.length === 0) return context.print(vmsAnswer(old, { none }));
    const names = old.slice(0, NAMED).map(({ name }) => name);
    const more = old.length > NAMED ? ` and ${old.length - NAMED} more` : '';
    await context.confirm(
      `Remove ${old.length} VM${old.length > 1 ? 's' : ''} (${names.join(', ')}${more}) from the registry?`,
      yes,
    );
    const { done, failed } = await each(context, old, async ({ id }) => {
      // The answer to the question may have taken its time.
      const vm = await client.get(id);
      if (livenessOf(vm) === 'stale') {
        await client.deregister(id);
        return [vm];
      }
      context.note(`${id} has come back, and stays`);
      return [];
    });
    if (done.flat().length > 0) await context.print(vmsAnswer(done.flat()));
    throwFailed(context, old.length, failed, ({ id }) => id);
  },
});
