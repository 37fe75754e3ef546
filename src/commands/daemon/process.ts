/** Shared by the commands of the daemon and the agent: data dir, log, life cycle, and starting in the background. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Logger } from 'pino';
import type { Lifecycle } from '../../../daemon/process/lifecycle.ts';
import type { ProcessInfo } from '../../../daemon/process/pid-file.ts';
import type { Argument, Context, Flag } from '../../command.ts';
import { withOrigin } from '../../config/secret-file.ts';
import type { SettingKey } from '../../config/settings.ts';
import type { LogFormat, LogLevel } from '../../protocol/api.ts';
import { VregError } from '../../protocol/errors.ts';
import type { Column, RowsAnswer } from '../../render.ts';

export const LOG_SETTINGS: readonly SettingKey[] = ['data-dir', 'log-level', 'log-format'];
export const VM_SETTINGS: readonly SettingKey[] = ['id', 'id-file', 'name', 'role', 'address', 'registered-by'];
export const DETACH: Flag = {
  flags: '--detach',
  about: 'run in the background, with a pid file and a log in the data dir',
};

/** Argument of commands that concern the running registry or the running agents. */
export const WHICH_ARGUMENT: Argument = {
  name: 'which',
  about: '`serve` or `agent` (default: both)',
  optional: true,
  values: ['serve', 'agent'],
};

/** @throws VregError USAGE if {@link WHICH_ARGUMENT} is neither of them */
export function parseKinds(which: string | undefined): ProcessInfo['kind'][] {
  if (which === undefined) return ['agent', 'serve'];
  if (which === 'serve' || which === 'agent') return [which];
  throw new VregError('USAGE', `invalid argument "${which}"`, { field: 'which', hint: 'one of: serve, agent' });
}

export function dataDirOf({ config }: Context): string {
  return resolve(config.get('data-dir') ?? config.stateDir);
}

export interface ProcessLog {
  log: Logger;
  /** Continues the log in a new file; undefined if it is not the file of {@link detach}. */
  reopenLog: (() => void) | undefined;
}

/** @param logFile the file to which {@link detach} redirects stderr */
export async function createLog({ config, io }: Context, logFile: string): Promise<ProcessLog> {
  const { createLog } = await import('../../../daemon/process/log.ts');
  const format = (config.get('log-format') ?? (process.stderr.isTTY ? 'pretty' : 'json')) as LogFormat;
  const { log, reopen } = await createLog({ level: config.get('log-level') as LogLevel, format, color: io.errColor });
  const { isStderr } = await import('../../../daemon/process/log-file.ts');
  return { log, reopenLog: isStderr(logFile) ? () => reopen(logFile) : undefined };
}

/** @param status one line for `systemctl status` */
export async function startLifecycle(
  context: Context,
  { log, reopenLog }: ProcessLog,
  status: () => string,
): Promise<Lifecycle> {
  const { Lifecycle } = await import('../../../daemon/process/lifecycle.ts');
  const { env, signal } = context;
  return new Lifecycle({ env, log, reopenLog, status, signal, onHangup: (handler) => context.onHangup(handler) });
}

/** If this process was started by `--detach`, reports its failure to the command that started it. */
export async function reportingFailure(context: Context, running: Promise<void>): Promise<void> {
  return namingOriginOfPath(context, running).catch(async (error: unknown) => {
    await (await import('../../../daemon/process/detach.ts')).reportFailure(error);
    throw error;
  });
}

/** Settings whose paths the daemon and the agent check only when they use them. */
const PATHS: readonly SettingKey[] = ['data-dir', 'native-dir', 'run-dir', 'socket'];

/** Adds the origin of a path to an error that concerns it: `cannot use the data dir … (EACCES, from VREG_DATA_DIR)`. */
export function namingOriginOfPath<T>({ config }: Context, running: Promise<T>): Promise<T> {
  return running.catch((error: unknown) => {
    const key = error instanceof VregError ? PATHS.find((path) => path === error.field) : undefined;
    const found = key && config.find(key);
    throw found ? withOrigin(error as VregError, found.origin) : error;
  });
}

/** Runs this command again in the background and prints the new process when it is ready. */
export async function detach(context: Context, kind: ProcessInfo['kind'], logFile: string): Promise<void> {
  const { startDetached } = await import('../../../daemon/process/detach.ts');
  const { pid, warning } = await startDetached(
    context.argv.filter((argument) => argument !== '--detach'),
    logFile,
  );
  const started = (await findRunning(context, [kind])).filter((info) => info.pid === pid);
  await context.print(processesAnswer(started));
  if (warning !== undefined) context.note(`${warning}; retrying until it works`);
  context.note(`running in the background; log: ${logFile}`);
}

/** @throws VregError NO_LIVE if no process of these kinds uses the data dir; USAGE if several users may write to it */
export async function findRunning(context: Context, kinds: readonly ProcessInfo['kind'][]): Promise<ProcessInfo[]> {
  const { readProcesses } = await import('../../../daemon/process/pid-file.ts');
  const dir = dataDirOf(context);
  const running = kinds.flatMap((kind) => readProcesses(dir, kind));
  if (running.length > 0) {
    const { assertPrivate } = await import('../../../daemon/process/state-dir.ts');
    // Pid files that another user may have written name any process.
    assertPrivate(dir, 'data-dir', statSync(dir).uid);
    return running;
  }
  const process = kinds.length > 1 ? 'daemon or agent' : kinds[0] === 'serve' ? 'daemon' : 'agent';
  throw new VregError('NO_LIVE', `no vreg ${process} is using the data dir ${dir}`, {
    hint: `start one: vreg daemon ${kinds.includes('serve') ? '' : 'agent '}--detach, or choose another with --data-dir`,
  });
}

const WARNING: Column<ProcessInfo> = { title: 'WARNING', cell: ({ warning }) => warning ?? '-' };
const STATE: Column<ProcessInfo> = { title: 'STATE', cell: ({ state }) => state ?? 'running' };

export function processesAnswer(rows: readonly ProcessInfo[]): RowsAnswer<ProcessInfo> {
  return {
    kind: 'rows',
    rows,
    columns: [
      { title: 'KIND', cell: ({ kind }) => kind },
      { title: 'PID', cell: ({ pid }) => pid },
      { title: 'SINCE', cell: ({ since }) => ({ time: since }) },
      { title: 'URL', cell: ({ urls }) => urls.join(',') },
      { title: 'VM', cell: ({ vm }) => vm ?? '-' },
      ...(rows.some(({ state }) => state !== undefined) ? [STATE] : []),
      ...(rows.some(({ warning }) => warning !== undefined) ? [WARNING] : []),
    ],
    name: ({ pid }) => String(pid),
    data: ({ kind, pid, since, urls, vm, state, warning }) => ({
      kind,
      pid,
      since,
      urls,
      ...(vm === undefined ? {} : { vm }),
      ...(state === undefined ? {} : { state }),
      ...(warning === undefined ? {} : { warning }),
    }),
  };
}
