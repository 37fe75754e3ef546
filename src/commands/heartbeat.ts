import { type Context, defineCommand } from '../command.ts';
import { parseDuration } from '../config/values.ts';
import { META_FLAG, parsePid, SERVICE_FLAG, WHILE_PID_FLAG } from '../fleet/flags.ts';
import { findMetadata, type ThisVmFlags, thisVm, thisVmId, vmWithId, withMetadata } from '../fleet/local-vm.ts';
import { type Heartbeat, MAX_BATCH } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import type { Registration } from '../protocol/vm.ts';
import type { RowsAnswer } from '../render.ts';
import { each, type Failed, throwFailed } from '../run/batch.ts';

interface Flags extends ThisVmFlags {
  every?: string;
  whilePid?: string;
  registerIfMissing?: boolean;
  stateDir?: string;
}

export const heartbeat = defineCommand<Flags>({
  name: 'heartbeat',
  aliases: ['hb', 'beat'],
  summary: 'send a heartbeat for this VM or others',
  description:
    'Sends a heartbeat, which renews the lease of the VM. With --every, repeats until stopped and retries while the registry is down. With --while-pid, ends with exit code 0 when that process has exited, which replaces a hook at the end of a session; --every is then 60s unless given. With --register-if-missing, registers an unknown VM from the same flags and variables as vreg register. With --state-dir, also sends a proof of identity, so that the registry can detect clones. Exit code 9 means that the registry currently accepts heartbeats from another copy of this VM (a clone or a restored snapshot), at least until that copy has been silent for one lease period.',
  arguments: [
    {
      name: 'id',
      about: 'id of a VM (default: VERS_VM_ID, else the host name)',
      optional: true,
      variadic: true,
      values: 'ids',
    },
  ],
  settings: ['id-file', 'name', 'role', 'address', 'registered-by'],
  flags: [
    { flags: '--every <duration>', about: 'repeat at this interval, e.g. 60s' },
    WHILE_PID_FLAG,
    { flags: '--register-if-missing', about: 'register the VM if it is not registered' },
    {
      flags: '--state-dir <dir>',
      about: 'folder for the state that proves the identity of this VM',
      file: true,
    },
    SERVICE_FLAG,
    META_FLAG,
  ],
  examples: [
    { about: 'once for this VM, from cron or a systemd timer', command: 'vreg heartbeat' },
    { about: 'for the lifetime of this shell', command: 'vreg heartbeat --every 60s --register-if-missing &' },
    { about: 'until the program that runs this script has exited', command: 'vreg heartbeat --while-pid $PPID &' },
    { about: 'for two other VMs', command: 'vreg heartbeat worker-1 worker-2' },
  ],
  exits: [2, 3, 8, 9],
  async run(context, args, flags) {
    const ids = args.length > 0 ? args : [thisVmId(context.config)];
    if (flags.stateDir !== undefined) return sendWithIdentity(context, ids, flags.stateDir, flags);
    if (flags.whilePid !== undefined) return sendWhile(context, ids, parsePid(flags.whilePid), flags);
    if (flags.every !== undefined)
      return sendPeriodically(context, ids, parseDuration(flags.every, '--every'), flags, context.signal);
    const { heard, rest } = await sendBatch(context, ids);
    const { done, failed } = await each(context, rest, (id) => sendOrRegister(context, id, flags));
    const heartbeats = [...heard, ...done];
    if (heartbeats.length > 0) await context.print(heartbeatsAnswer(heartbeats, ids.length === 1));
    throwFailed(context, ids.length, failed, (id) => id);
  },
});

/** Sends one heartbeat with a proof of identity, as the agent does. */
async function sendWithIdentity(
  context: Context,
  ids: readonly string[],
  stateDir: string,
  flags: Flags,
): Promise<void> {
  const [id] = ids;
  if (ids.length > 1 || (flags.every ?? flags.whilePid) !== undefined) {
    throw new VregError(
      'USAGE',
      '--state-dir requires a single VM and cannot be combined with --every or --while-pid',
      {
        field: 'state-dir',
        hint: 'for repeated heartbeats, use vreg daemon agent, which stores the same state',
      },
    );
  }
  const { heartbeatOnce } = await import('../../daemon/agent/one-shot.ts');
  const note = (_fields: object, message: string) => context.verbose(message);
  const sent = await heartbeatOnce({
    client: context.client(),
    vmOf: (vm) => thisVm(context.config, flags, vm),
    addedMetadata: findMetadata(context.config, id!),
    id: id!,
    stateDir,
    registerIfMissing: flags.registerIfMissing === true,
    log: { info: note, warn: note },
  });
  await context.print(heartbeatsAnswer([sent], true));
}

/** @throws VregError NO_LIVE if there is no such process */
async function sendWhile(context: Context, ids: readonly string[], pid: number, flags: Flags): Promise<void> {
  const { untilExit } = await import('../../daemon/process/other-process.ts');
  const exited = new AbortController();
  const exit = untilExit(pid, (ms) => context.sleep(ms));
  exit.then(
    () => exited.abort(),
    () => exited.abort(),
  );
  const interval = parseDuration(flags.every ?? context.config.get('interval')!, '--every');
  await sendPeriodically(context, ids, interval, flags, AbortSignal.any([context.signal, exited.signal]));
  await exit;
}

/** Sends heartbeats in batches if the server supports it. @returns as `rest` the ids that must be sent one by one */
async function sendBatch(
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

/** The registration of a VM that is not registered, for `--register-if-missing`. */
function vmOf({ config }: Context, flags: Flags, id: string): Registration {
  return id === thisVmId(config) ? thisVm(config, flags) : vmWithId(config, flags, id);
}

async function sendOrRegister(context: Context, id: string, flags: Flags): Promise<Heartbeat> {
  try {
    return await context.client().heartbeat(id);
  } catch (error) {
    // An enrol token may only register, so its heartbeat fails with a scope error.
    const isMissing = error instanceof VregError && (error.code === 'NOT_FOUND' || error.field === 'scope');
    if (!flags.registerIfMissing || !isMissing) throw error;
    const registration = withMetadata(context.config, vmOf(context, flags, id));
    const { lastSeen, token } = await context.client().register(registration);
    if (token !== undefined)
      context.note(`${id} received its own token, which is not stored: use --state-dir or vreg daemon agent`);
    return { id, lastSeen };
  }
}

/**
 * Runs the agent's heartbeat loop for each VM, without registering at the start or deregistering at the end. If one VM fails
 * permanently, prints a note and continues with the others.
 * @param interval milliseconds
 */
async function sendPeriodically(
  context: Context,
  ids: readonly string[],
  interval: number,
  flags: Flags,
  signal: AbortSignal,
): Promise<void> {
  const { Agent } = await import('../../daemon/agent/agent.ts');
  const note = (_fields: object, message: string) => context.note(message);
  let begun = false;
  const agents = ids.map(
    (id) =>
      new Agent({
        // Each VM needs its own client, because an enrolled VM continues with its own token.
        client: context.freshClient(),
        vm: vmOf(context, flags, id),
        addedMetadata: findMetadata(context.config, id),
        interval,
        onExit: 'keep',
        announce: false,
        registerIfMissing: flags.registerIfMissing === true,
        log: { info: note, warn: note },
        sleep: (ms, until) => context.sleep(ms, until),
        onHeartbeat: async (sent) => {
          const answer = { ...heartbeatsAnswer([sent], true), continued: begun };
          begun = true;
          await context.print(answer);
        },
      }),
  );
  const failed: Failed<string>[] = [];
  const loops = agents.map(async (agent, index) => {
    const id = ids[index]!;
    await agent.run(signal).catch((error: Error) => {
      failed.push({ item: id, error });
      if (ids.length > 1) context.note(`stopped sending heartbeats for ${id}: ${error.message}`);
    });
  });
  await Promise.all(loops);
  if (context.signal.aborted) throw context.signal.reason;
  throwFailed(context, ids.length, failed, (id) => id);
}

function heartbeatsAnswer(rows: readonly Heartbeat[], single: boolean): RowsAnswer<Heartbeat> {
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
