import { type Context, defineCommand } from '../command.ts';
import { parseDuration } from '../config/duration.ts';
import { META_FLAG, SERVICE_FLAG } from '../fleet/flags.ts';
import { type ThisVmFlags, thisVm, thisVmId } from '../fleet/local-vm.ts';
import { type Heartbeat, MAX_BATCH } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import type { RowsAnswer } from '../render.ts';
import { each, type Failed, throwFailed } from '../run/batch.ts';

interface Flags extends ThisVmFlags {
  every?: string;
  registerIfMissing?: boolean;
  stateDir?: string;
}

export const heartbeat = defineCommand<Flags>({
  name: 'heartbeat',
  aliases: ['hb', 'beat'],
  summary: 'send a sign of life for this VM or others',
  description:
    'Sends a sign of life. With --every it goes on until it is stopped, and outlasts a registry that is away. With --register-if-missing it registers a VM that the registry does not know, from the same flags and variables as vreg register. With --state-dir it proves who this VM is, as the agent does: exit code 9 says that another incarnation of it lives.',
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
    { flags: '--state-dir <dir>', about: 'prove with it that this is the VM, and no clone of it', file: true },
    SERVICE_FLAG,
    META_FLAG,
  ],
  examples: [
    { about: 'once, for this VM (cron, a systemd timer)', command: 'vreg heartbeat' },
    { about: 'for as long as this shell lives', command: 'vreg heartbeat --every 60s --register-if-missing &' },
    { about: 'for two others', command: 'vreg heartbeat worker-1 worker-2' },
  ],
  exits: [2, 3, 8, 9],
  async run(context, args, flags) {
    const ids = args.length > 0 ? args : [thisVmId(context.config)];
    if (flags.stateDir !== undefined) return beatAsOne(context, ids, flags.stateDir, flags);
    if (flags.every !== undefined) return beatForever(context, ids, parseDuration(flags.every, '--every'), flags);
    const { heard, rest } = await beatTogether(context, ids);
    const { done, failed } = await each(context, rest, (id) => beatOrRegister(context, id, flags));
    const beats = [...heard, ...done];
    if (beats.length > 0) await context.print(beatsAnswer(beats, ids.length === 1));
    throwFailed(context, ids.length, failed, (id) => id);
  },
});

/** One beat of the agent, with its state. */
async function beatAsOne(context: Context, ids: readonly string[], stateDir: string, flags: Flags): Promise<void> {
  const [id] = ids;
  if (ids.length > 1 || flags.every !== undefined) {
    throw new VregError('USAGE', '--state-dir is for one beat of one VM', {
      field: 'state-dir',
      hint: 'what goes on is vreg daemon agent, which has such a state by itself',
    });
  }
  const { heartbeatOnce } = await import('../../daemon/agent/one-shot.ts');
  const note = (_fields: object, message: string) => context.verbose(message);
  const beat = await heartbeatOnce({
    client: context.client(),
    vmOf: (vm) => thisVm(context.config, flags, vm),
    id: id!,
    stateDir,
    registerIfMissing: flags.registerIfMissing === true,
    log: { info: note, warn: note },
  });
  await context.print(beatsAnswer([beat], true));
}

/** Many in one request, where the server has that. What is left (all of them elsewhere) is beaten one by one. */
async function beatTogether(
  context: Context,
  ids: readonly string[],
): Promise<{ heard: readonly Heartbeat[]; rest: readonly string[] }> {
  if (ids.length < 2 || !(await context.client().isVreg())) return { heard: [], rest: ids };
  const heard: Heartbeat[] = [];
  const rest: string[] = [];
  for (let from = 0; from < ids.length; from += MAX_BATCH) {
    const answer = await context.client().heartbeats(ids.slice(from, from + MAX_BATCH));
    heard.push(...answer.heard);
    rest.push(...answer.unknown);
  }
  return { heard, rest };
}

async function beatOrRegister(context: Context, id: string, flags: Flags): Promise<Heartbeat> {
  try {
    return await context.client().heartbeat(id);
  } catch (error) {
    // An enrol token may do nothing but that.
    const isMissing = error instanceof VregError && (error.code === 'NOT_FOUND' || error.field === 'scope');
    if (!flags.registerIfMissing || !isMissing) throw error;
    const { lastSeen, token } = await context.client().register(thisVm(context.config, flags, id));
    if (token !== undefined)
      context.note(`${id} got a token of its own, which is lost here: use --state-dir, or vreg daemon agent`);
    return { id, lastSeen };
  }
}

/**
 * The agent's loop in the foreground, without its registration at the start and its leave at the end. A VM that cannot
 * be beaten for any more is told, and the others go on.
 */
async function beatForever(context: Context, ids: readonly string[], interval: number, flags: Flags): Promise<void> {
  const { Agent } = await import('../../daemon/agent/agent.ts');
  const note = (_fields: object, message: string) => context.note(message);
  let begun = false;
  const agents = ids.map(
    (id) =>
      new Agent({
        // One each: a VM that is enrolled goes on with a token of its own.
        client: context.freshClient(),
        vm: thisVm(context.config, flags, id),
        interval,
        onExit: 'keep',
        announce: false,
        registerIfMissing: flags.registerIfMissing === true,
        log: { info: note, warn: note },
        sleep: (ms) => context.sleep(ms),
        onHeartbeat: async (beat) => {
          const answer = { ...beatsAnswer([beat], true), continued: begun };
          begun = true;
          await context.print(answer);
        },
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
