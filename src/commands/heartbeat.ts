import { type Context, defineCommand } from '../command.ts';
import { parseDuration } from '../duration.ts';
import { each, type Failed, throwFailed } from '../each.ts';
import type { Heartbeat } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import type { RowsAnswer } from '../render.ts';
import { type ThisVmFlags, thisVm, thisVmId } from '../this-vm.ts';
import { META_FLAG, SERVICE_FLAG } from '../vm-flags.ts';

interface Flags extends ThisVmFlags {
  every?: string;
  registerIfMissing?: boolean;
}

export const heartbeat = defineCommand<Flags>({
  name: 'heartbeat',
  aliases: ['hb', 'beat'],
  summary: 'send a sign of life for this VM or others',
  description:
    'Sends a sign of life. With --every it goes on until it is stopped, and outlasts a registry that is away. With --register-if-missing it registers a VM that the registry does not know, from the same flags and variables as vreg register.',
  arguments: [
    {
      name: 'id',
      about: 'id of a VM (default: VERS_VM_ID, else the host name)',
      optional: true,
      variadic: true,
      values: 'ids',
    },
  ],
  settings: ['name', 'role', 'address', 'registered-by'],
  flags: [
    { flags: '--every <duration>', about: 'go on, one beat in that time, e.g. 60s' },
    { flags: '--register-if-missing', about: 'register a VM that is not registered' },
    SERVICE_FLAG,
    META_FLAG,
  ],
  examples: [
    { about: 'once, for this VM (cron, a systemd timer)', command: 'vreg heartbeat' },
    { about: 'for as long as this shell lives', command: 'vreg heartbeat --every 60s --register-if-missing &' },
    { about: 'for two others', command: 'vreg heartbeat worker-1 worker-2' },
  ],
  exits: [2, 3, 8],
  async run(context, args, flags) {
    const ids = args.length > 0 ? args : [thisVmId(context.config)];
    if (flags.every !== undefined) return beatForever(context, ids, parseDuration(flags.every, '--every'), flags);
    const { heard, unknown } = await context.client().heartbeats(ids);
    const { done, failed } = await each(context, unknown, (id) => registerMissing(context, id, flags));
    const beats = [...heard, ...done];
    if (beats.length > 0) await context.print(beatsAnswer(beats, ids.length === 1));
    throwFailed(context, ids.length, failed, (id) => id);
  },
});

async function registerMissing(context: Context, id: string, flags: Flags): Promise<Heartbeat> {
  if (!flags.registerIfMissing) {
    throw new VregError('NOT_FOUND', 'VM not found', {
      field: 'id',
      hint: 'register it: vreg heartbeat --register-if-missing',
    });
  }
  const { lastSeen } = await context.client().register(thisVm(context.config, flags, id));
  return { id, lastSeen };
}

/**
 * The agent's loop in the foreground, without its registration at the start and its leave at the end. A VM that cannot
 * be beaten for any more is told, and the others go on.
 */
async function beatForever(context: Context, ids: readonly string[], interval: number, flags: Flags): Promise<void> {
  const { Agent } = await import('../../daemon/agent/agent.ts');
  const note = (_fields: object, message: string) => context.note(message);
  const agents = ids.map(
    (id) =>
      new Agent({
        client: context.client(),
        vm: thisVm(context.config, flags, id),
        interval,
        onExit: 'keep',
        announce: false,
        registerIfMissing: flags.registerIfMissing === true,
        log: { info: note, warn: note },
        sleep: (ms) => context.sleep(ms),
        onBeat: (beat) => context.print(beatsAnswer([beat], true)),
      }),
  );
  const failed: Failed<string>[] = [];
  const beating = agents.map(async (agent, index) => {
    const id = ids[index]!;
    await agent.run(context.signal).catch((error: Error) => {
      failed.push({ item: id, error });
      if (ids.length > 1) context.note(`no more beats for ${id}: ${error.message}`);
    });
  });
  await Promise.all(beating);
  if (context.signal.aborted) throw context.signal.reason;
  throwFailed(context, ids.length, failed, (id) => id);
}

function beatsAnswer(rows: readonly Heartbeat[], single: boolean): RowsAnswer<Heartbeat> {
  return {
    kind: 'rows',
    rows,
    single,
    columns: [
      { title: 'ID', cell: ({ id }) => id },
      { title: 'LAST SEEN', cell: ({ lastSeen }) => ({ time: lastSeen }) },
    ],
    name: ({ id }) => id,
  };
}
