/** What the daemon's and the agent's commands share: where they live, their log, and going on in the background. */
import type { Logger } from 'pino';
import type { ProcessInfo } from '../../../daemon/process/pid-file.ts';
import type { Reloader } from '../../../daemon/process/reload.ts';
import type { SystemdNotifier } from '../../../daemon/systemd/notify.ts';
import type { Context, Flag } from '../../command.ts';
import type { SettingKey } from '../../config/settings.ts';
import type { LogFormat, LogLevel } from '../../protocol/api.ts';
import { VregError } from '../../protocol/errors.ts';
import type { RowsAnswer } from '../../render.ts';

export const LOG_SETTINGS: readonly SettingKey[] = ['data-dir', 'log-level', 'log-format'];
export const VM_SETTINGS: readonly SettingKey[] = ['id', 'name', 'role', 'address', 'registered-by'];
export const DETACH: Flag = {
  flags: '--detach',
  about: 'go on in the background, with a pid file and a log in the data dir',
};

export function dataDirOf({ config }: Context): string {
  return config.get('data-dir') ?? config.stateDir;
}

export async function createLog({ config, io }: Context) {
  const { createLog } = await import('../../../daemon/process/log.ts');
  const format = (config.get('log-format') ?? (process.stderr.isTTY ? 'pretty' : 'json')) as LogFormat;
  return createLog({ level: config.get('log-level') as LogLevel, format, color: io.errColor });
}

export async function detach(context: Context, kind: ProcessInfo['kind'], logFile: string): Promise<void> {
  const { startDetached } = await import('../../../daemon/process/detach.ts');
  const { pid, warning } = await startDetached(
    context.argv.filter((word) => word !== '--detach'),
    logFile,
  );
  const started = (await findRunning(context, [kind])).filter((info) => info.pid === pid);
  await context.print(processesAnswer(started));
  if (warning !== undefined) context.note(`${warning}; it is tried again until it works`);
  context.note(`it goes on in the background; its log is ${logFile}`);
}

export async function findRunning(context: Context, kinds: readonly ProcessInfo['kind'][]): Promise<ProcessInfo[]> {
  const { readProcesses } = await import('../../../daemon/process/pid-file.ts');
  const dir = dataDirOf(context);
  const running = kinds.flatMap((kind) => readProcesses(dir, kind));
  if (running.length === 0) {
    throw new VregError(
      'NO_LIVE',
      `no vreg ${kinds.length === 1 ? kinds[0] : 'daemon or agent'} runs with the data dir ${dir}`,
      {
        hint: `start one: vreg daemon ${kinds.includes('serve') ? '' : 'agent '}--detach, or name another --data-dir`,
      },
    );
  }
  return running;
}

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
    ],
    name: ({ pid }) => String(pid),
    data: ({ kind, pid, since, urls, vm }) => ({ kind, pid, since, urls, ...(vm === undefined ? {} : { vm }) }),
  };
}

/** What to tell of this process to systemd, if that has started it. @param status one line on how it goes */
export async function notifies(
  context: Context,
  log: Logger,
  status: () => string,
): Promise<SystemdNotifier | undefined> {
  if (!context.env.NOTIFY_SOCKET) return undefined;
  return (await import('../../../daemon/systemd/notify.ts')).createNotifier({ env: context.env, log, status });
}

/** A SIGHUP runs the reloaders from now on, instead of ending the program. */
export async function onHangup(
  context: Context,
  reloaders: readonly Reloader[],
  log: Logger,
  manager?: SystemdNotifier,
): Promise<void> {
  const { createReload } = await import('../../../daemon/process/reload.ts');
  const reload = createReload(reloaders, log, manager);
  context.onHangup(() => void reload());
}

export async function tellReady(trouble?: string): Promise<void> {
  await (await import('../../../daemon/process/detach.ts')).reportReady(trouble);
}

/** Whoever waits for a program in the background hears why it did not come up. */
export async function orTell(running: Promise<void>): Promise<void> {
  return running.catch(async (error: unknown) => {
    await (await import('../../../daemon/process/detach.ts')).reportFailure(error);
    throw error;
  });
}
