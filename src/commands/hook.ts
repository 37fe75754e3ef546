/**
 * `vreg hook start` and `stop`, which coding agents run at the start and the end of a session. They end with exit code 0 whatever
 * happens to the registry, and within seconds: a hook must not prevent a coding agent from starting, and exit code 2 of a hook
 * would stop some of them.
 */
import { join } from 'node:path';
import { type Context, defineCommand, type Flag, GLOBAL_SETTINGS } from '../command.ts';
import type { SettingKey } from '../config/settings.ts';
import { parsePid, WHILE_PID_FLAG } from '../fleet/flags.ts';
import { findMetadata, thisVm, withMetadata } from '../fleet/local-vm.ts';
import { insteadOf, knownConflicts, type OwnStatus, readOwnStatus } from '../fleet/own-status.ts';
import {
  cloneVerdict,
  findAgent,
  otherRegistryOf,
  ownStateFolder,
  readSelf,
  SELF_SETTINGS,
  type Self,
  verdictText,
  whyNoVm,
} from '../fleet/self.ts';
import { VregError } from '../protocol/errors.ts';
import { livenessOf } from '../protocol/liveness.ts';
import { maskTokens, printable } from '../protocol/redact.ts';
import { isAway, isTransient } from '../run/retry.ts';

/** Milliseconds for the whole hook, unless `--timeout` is given: coding agents wait for it before the first prompt. */
const TIME_LIMIT = 3000;
/** Share of that time for requests to the registry. The start of the agent takes all the rest if the registry does not respond. */
const ASKING_SHARE = 1 / 3;
/** Milliseconds to wait for the end of stdin. The coding agent has written it before it starts the hook, or does not close it. */
const INPUT_TIMEOUT = 300;
/** Maximum number of bytes of the input that are read. Coding agents send less than 1 kB. */
const INPUT_LIMIT = 65_536;
/** Maximum number of infra VMs that the context names. */
const MAX_INFRA = 3;

interface Flags {
  whilePid?: string;
  context?: string;
}

const SETTINGS = [
  ...SELF_SETTINGS,
  'name',
  'role',
  'address',
  'registered-by',
  'interval',
  'on-clone',
] as const satisfies readonly SettingKey[];

const WHILE_PID: Flag = {
  ...WHILE_PID_FLAG,
  about: 'send heartbeats until this process has exited (default: the program that runs the hook)',
};

const start = defineCommand<Flags>({
  name: 'start',
  summary: 'register this VM, keep it alive, print who it is',
  description:
    'For the start hook of a coding agent. Registers this VM or updates its entry, and starts an agent (vreg daemon agent) that sends heartbeats until the coding agent has exited, unless one runs already. Prints three lines for the context of the model: which VM this is, where infra is, and whether this VM is a clone. Reads the JSON that Claude Code, Codex and pi write to stdin, and also works without it. Does nothing without VERS_VM_ID and the URL of a registry, so that the hook may be in the settings of a project. Takes at most 3 seconds (or --timeout), and the exit code is 0 also if the registry is unreachable, because a hook must not prevent a coding agent from starting. In a clone, the agent never acts as the VM from which it was copied.',
  settings: SETTINGS,
  flags: [WHILE_PID],
  examples: [
    { about: 'what the hook of a coding agent runs', command: 'vreg hook start' },
    { about: 'see what a model would read', command: `echo '{"source": "startup"}' | vreg hook start` },
    { about: 'for a program other than the caller', command: 'vreg hook start --while-pid 4711' },
  ],
  async run(context, _args, flags) {
    // Validate the flag before anything else: it is an error in the settings of the hook, not of the registry.
    const caller = flags.whilePid === undefined ? undefined : parsePid(flags.whilePid);
    await sparing(context, () => runStart(context, flags, caller));
  },
});

const stop = defineCommand({
  name: 'stop',
  summary: 'send a last heartbeat at the end of a session',
  description:
    'For the end hook of a coding agent. A hint only: sends one heartbeat, so that an idle VM stays discoverable, and never sets the status to stopped, because end hooks do not run reliably and a VM without a session can still be reached. The agent that vreg hook start has started ends by itself when the coding agent has exited. The exit code is 0 also if the registry is unreachable.',
  settings: SELF_SETTINGS,
  examples: [
    { about: 'what the hook of a coding agent runs', command: 'vreg hook stop' },
    { about: 'see whether the heartbeat was sent', command: 'vreg hook stop -v' },
    { about: 'with an input as Claude Code sends it', command: `echo '{"reason": "clear"}' | vreg hook stop` },
  ],
  run: (context) => sparing(context, () => runStop(context)),
});

export const hook = defineCommand({
  name: 'hook',
  summary: 'register this VM from hooks of a coding agent',
  description:
    'Hooks for Claude Code, Codex and pi. vreg setup adds them to the settings of a coding agent. They never fail because of the registry.',
  examples: [
    { about: 'at the start of a session', command: 'vreg hook start' },
    { about: 'at its end', command: 'vreg hook stop' },
    { about: 'the context as JSON', command: 'echo {} | vreg hook start -o json' },
  ],
  commands: [start, stop],
});

/** Prints an error as one line of context, and succeeds. */
async function sparing(context: Context, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof VregError)) throw error;
    await say(context, [`vreg: ${error.message}`], {});
  }
}

/** An error may quote text from a proxy, which must not add a line to the context of a model. */
async function say(context: Context, lines: readonly string[], data: object): Promise<void> {
  await context.print({ kind: 'value', text: lines.map((line) => printable(maskTokens(line))).join('\n'), data });
}

/** Reads from stdin which event the coding agent reports, and why. Empty if it wrote no JSON object. */
async function readInput({ io, signal }: Context): Promise<{ event?: string; source?: string }> {
  if (io.stdinTty) return {};
  const text = await io
    .readStdin(AbortSignal.any([signal, AbortSignal.timeout(INPUT_TIMEOUT)]), INPUT_LIMIT)
    .catch(() => '');
  if (signal.aborted) throw signal.reason;
  try {
    const input = JSON.parse(text) as Record<string, unknown> | null;
    const field = (...names: string[]) =>
      names.map((name) => input?.[name]).find((value) => typeof value === 'string') as string | undefined;
    const event = field('hook_event_name', 'event', 'type');
    const source = field('source', 'reason');
    return { ...(event === undefined ? {} : { event }), ...(source === undefined ? {} : { source }) };
  } catch {
    return {};
  }
}

async function runStart(context: Context, flags: Flags, caller: number | undefined): Promise<void> {
  const { config } = context;
  const limit = config.isSet('timeout') ? config.duration('timeout') : TIME_LIMIT;
  const began = performance.now();
  const left = (share = 1) => Math.max(1, Math.ceil(limit * share - (performance.now() - began)));
  const input = await readInput(context);
  const self = await readSelf(config);
  const reason = whyNoVm(context.config, self);
  if (reason !== undefined)
    return say(context, [`vreg: ${reason}, so this machine was not registered`], { registered: false, ...input });
  const agent = await ensureAgent(context, self, flags, caller, () => left(1 - ASKING_SHARE));
  // The agent may have learned that this VM is a clone, or may have given it another id.
  const now = await readSelf(config);
  const outcome = await ask(context, now, agent, left).catch((error: unknown) => {
    if (error instanceof VregError) return error;
    throw error;
  });
  const { lines, data } = describe(context, now, agent, outcome);
  await say(context, lines, { ...data, ...input });
}

interface StartedAgent {
  /** `failed` if it could not be started. */
  state: 'running' | 'started' | 'failed';
  /** Why it could not be started, or why the registry does not accept its heartbeats. */
  trouble?: VregError | string | undefined;
  /** See {@link otherRegistryOf}. */
  other?: string | undefined;
}

/** Finds the agent of this VM, or starts one in the background. */
async function ensureAgent(
  context: Context,
  self: Self,
  flags: Flags,
  given: number | undefined,
  left: () => number,
): Promise<StartedAgent> {
  const { config } = context;
  const { callerOf } = await import('../../daemon/process/other-process.ts');
  const { addCaller } = await import('../../daemon/process/callers.ts');
  const { startDetached } = await import('../../daemon/process/detach.ts');
  // Without a caller, for example below a wrapper that has exited, the agent runs until it is stopped.
  const caller = given ?? callerOf(process.pid);
  const stateDir = ownStateFolder(config);
  try {
    // Before the search: an agent that is about to exit continues for this caller.
    if (caller !== undefined) addCaller(stateDir, caller);
    const running = await findAgent(config, self);
    if (running) {
      const other = otherRegistryOf(running, context.client());
      const trouble = running === 'unit' || other !== undefined ? undefined : running.warning;
      return { state: 'running', other, trouble };
    }
    const forwarded = [...GLOBAL_SETTINGS, ...SETTINGS].flatMap((key) => {
      const found = key === 'output' || key === 'timeout' ? undefined : config.find(key);
      return found?.origin.startsWith('flag') ? [`--${key}`, found.value] : [];
    });
    const named = flags.context === undefined ? [] : ['--context', flags.context];
    const until = caller === undefined ? [] : ['--while-pid', String(caller)];
    const argv = ['daemon', 'agent', '--on-exit', 'keep', ...until, ...named, ...forwarded];
    const { warning } = await startDetached(argv, join(stateDir, 'agent.log'), left());
    return { state: 'started', trouble: warning };
  } catch (error) {
    if (!(error instanceof VregError)) throw error;
    // Another hook has started one meanwhile.
    if (error.code === 'ALREADY_RUNNING') return { state: 'running' };
    return { state: 'failed', trouble: error };
  }
}

/** Asks the registry, and restores the entry of a VM whose agent was running already. @throws the client's errors */
async function ask(context: Context, self: Self, agent: StartedAgent, left: () => number): Promise<OwnStatus> {
  const client = context.client();
  client.useToken(self.state?.content.bearer);
  client.maxTimeout = left();
  await client.isVreg();
  client.maxTimeout = left();
  const status = await readOwnStatus(client, self);
  const isOpen = status.conflicts.some(({ id, state }) => id === self.id && state === 'open');
  const isRefused = agent.trouble instanceof VregError && agent.trouble.code === 'IDENTITY_CONFLICT';
  const byState = isRefused ? 'clone' : status.verdict;
  // A state that was copied proves nothing while its incarnation is in conflict.
  const verdict = isOpen && agent.trouble !== undefined && byState !== 'clone' ? 'contested' : byState;
  client.maxTimeout = left();
  if (verdict === 'clone' || verdict === 'contested') return { ...status, verdict };
  const { isStateUnusable } = await import('../../daemon/agent/one-shot.ts');
  const sent = isStateUnusable(agent.trouble) ? await sendInstead(context, self) : status.entry;
  const isRestored = agent.state === 'running' || sent !== status.entry;
  return { ...status, entry: isRestored ? await restore(context, self, sent) : sent, verdict };
}

/** Sends one heartbeat in place of the agent, which has no folder for its state, and registers a VM that is not registered. */
async function sendInstead(context: Context, { id, parentId }: Self): Promise<OwnStatus['entry']> {
  const { config } = context;
  const client = context.client();
  const { heartbeatWithoutProof } = await import('../../daemon/agent/one-shot.ts');
  const note = (_fields: object, message: string) => context.verbose(message);
  await heartbeatWithoutProof({
    client,
    id,
    vmOf: (vm) => thisVm(config, { parent: parentId }, vm),
    addedMetadata: findMetadata(config, id),
    registerIfMissing: true,
    log: { info: note, warn: note },
  });
  return client.get(id).catch(insteadOf({ FORBIDDEN: null }));
}

/** Registers a VM whose entry was removed, and sets `running` for one that was stopped. An operator may have paused it. */
async function restore(
  context: Context,
  { id, parentId }: Self,
  entry: OwnStatus['entry'],
): Promise<OwnStatus['entry']> {
  const client = context.client();
  // Its agent registers the VM with its next heartbeat if this token may not.
  if (!entry)
    return client
      .register(withMetadata(context.config, thisVm(context.config, { parent: parentId }, id)))
      .catch(insteadOf({ CONFLICT: entry, FORBIDDEN: entry, UNAUTHORIZED: entry }));
  if (entry.status !== 'stopped') return entry;
  return client.update(id, { status: 'running' }).catch(insteadOf({ FORBIDDEN: entry, UNAUTHORIZED: entry }));
}

function describe(context: Context, self: Self, agent: StartedAgent, known: OwnStatus | VregError) {
  const { id } = self;
  const { url, server } = context.client();
  const hasFailed = known instanceof VregError;
  const verdict = hasFailed ? cloneVerdict(self, []) : known.verdict;
  const vm = `This VM is ${verdict === 'clone' ? 'a clone of ' : ''}${JSON.stringify(id)}`;
  // The first line says that an agent runs, or why it does not.
  const text = verdictText(verdict, hasFailed ? undefined : known.conflictsUnknown, false);
  const clone = `Clone: ${text}${verdict === 'clone' || verdict === 'contested' ? ADVICE : ''}.`;
  const data = {
    id,
    clone: verdict,
    registry: { url, reachable: !isAway(known, server) },
    heartbeat: agent.state,
    ...(agent.other === undefined ? {} : { heartbeatRegistry: agent.other }),
  };
  if (hasFailed) {
    const { message } = known;
    const line = isTransient(known)
      ? `${vm}, but ${message}; ${retries(agent, message)}.`
      : `${vm}, but the registry ${url} refused a request: ${message}; ${heartbeats(agent, message)}.`;
    return { lines: verdict === 'clone' ? [line, clone] : [line], data };
  }
  const { entry, infra, conflictsUnknown } = known;
  const unregistered = entry === null ? 'registration unknown: this token may not read it' : 'not registered';
  const state = entry ? `${entry.role}, ${livenessOf(entry)}` : unregistered;
  return {
    lines: [`${vm} (${state}) at the registry ${url}; ${heartbeats(agent)}.`, describeInfra(infra), clone],
    data: {
      ...data,
      conflictsKnown: conflictsUnknown === undefined,
      registered: entry === null ? null : entry !== undefined,
      live: (entry && livenessOf(entry)) ?? null,
      infra: infra?.map(({ address }) => address) ?? null,
    },
  };
}

function describeInfra(infra: OwnStatus['infra']): string {
  if (infra === null) return 'Infra: unknown: this token may not read it.';
  if (infra.length === 0) return 'Infra: no live VM has this role.';
  const addresses = infra.slice(0, MAX_INFRA).map(({ address }) => address);
  const more = infra.length > MAX_INFRA ? ` and ${infra.length - MAX_INFRA} more` : '';
  return `Infra: ${addresses.join(', ')}${more}. To find a service: vreg url infra --service NAME`;
}

const ADVICE =
  '. Do not act as the other VM; to continue under a new id: vreg daemon agent --on-clone rebirth --detach';

/** The part of a line that says how the agent reacts to a registry that is away. */
function retries(agent: StartedAgent, known: string): string {
  const isHere = agent.state !== 'failed' && agent.other === undefined;
  return isHere ? 'its agent registers it as soon as the registry responds' : heartbeats(agent, known);
}

/** @param known a reason that the line contains already */
function heartbeats({ state, trouble, other }: StartedAgent, known?: string): string {
  const reason = trouble instanceof VregError ? trouble.message : trouble;
  if (other !== undefined)
    return `its agent sends heartbeats to ${other}; if that is another registry: vreg daemon stop agent, then vreg hook start`;
  if (state === 'failed' && reason === known) return 'nothing sends heartbeats';
  if (state === 'failed') return `its agent could not be started, so nothing sends heartbeats: ${reason}`;
  return reason === undefined ? 'its agent sends heartbeats' : `its agent runs (${reason})`;
}

async function runStop(context: Context): Promise<void> {
  const input = await readInput(context);
  const self = await readSelf(context.config);
  if (whyNoVm(context.config, self) !== undefined) return;
  const client = context.freshClient();
  client.useToken(self.state?.content.bearer);
  client.maxTimeout = context.config.isSet('timeout') ? context.config.duration('timeout') : TIME_LIMIT / 2;
  try {
    // The heartbeat of a clone would keep the VM alive from which it was copied.
    const { conflicts } = (await client.isVreg()) ? await knownConflicts(client) : { conflicts: [] };
    const verdict = cloneVerdict(self, conflicts);
    if (verdict === 'clone' || verdict === 'contested') return;
    await client.heartbeat(self.id);
    context.verbose(`sent a last heartbeat for ${self.id} (${input.event ?? 'no event'})`);
  } catch (error) {
    if (!(error instanceof VregError)) throw error;
    context.verbose(error.message);
  } finally {
    client.close();
  }
}
