import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { ProcessInfo } from '../../../daemon/process/pid-file.ts';
import { type Context, defineCommand } from '../../command.ts';
import { configFolder } from '../../config/folders.ts';
import { VregError } from '../../protocol/errors.ts';
import { dataDirOf, findRunning, parseKinds, WHICH_ARGUMENT } from './process.ts';

/** A log and the process that writes it. */
interface FoundLog {
  kind: ProcessInfo['kind'];
  pid?: number;
  /** The path of a file, or the command that prints the log. */
  log: string;
}

export const logs = defineCommand({
  name: 'logs',
  summary: 'show where the log of the daemon or an agent is',
  description:
    'Prints the path of the log file or, for a systemd unit, the journalctl command, one per line. If no process uses the data dir, prints the log files that earlier processes left there, or the command for an installed unit. To rotate a log file of --detach, rename it and send SIGHUP to its process; the shell owns any other log file.',
  arguments: [WHICH_ARGUMENT],
  settings: ['data-dir'],
  examples: [
    { about: 'follow the log of a detached registry', command: 'tail -f "$(vreg daemon logs serve)"' },
    { about: 'print the log of a systemd unit', command: 'eval "$(vreg daemon logs agent)"' },
    { about: 'logs of processes that use another data dir', command: 'vreg daemon logs --data-dir /var/lib/vreg' },
  ],
  exits: [3],
  async run(context, [which]) {
    const kinds = parseKinds(which);
    const running = await findRunning(context, kinds).catch((error: VregError) => error);
    const found = running instanceof VregError ? await leftLogs(context, kinds) : logsOf(running);
    if (found.length === 0) throw running instanceof VregError ? running : notInFile(running[0]!);
    await context.print({ kind: 'value', text: [...new Set(found.map(({ log }) => log))].join('\n'), data: found });
  },
});

function logsOf(running: readonly ProcessInfo[]): FoundLog[] {
  return running.flatMap(({ kind, pid, log }) => (log === undefined ? [] : [{ kind, pid, log }]));
}

/** Log files in the data dir, and commands for installed units. */
async function leftLogs(context: Context, kinds: readonly ProcessInfo['kind'][]): Promise<FoundLog[]> {
  const { LOG_FILES } = await import('../../../daemon/process/log-file.ts');
  const { env } = context;
  const userUnits = join(configFolder(env), 'systemd/user');
  return kinds.flatMap((kind): FoundLog[] => {
    const unit = `vreg-${kind}.service`;
    const file = join(dataDirOf(context), LOG_FILES[kind]);
    if (existsSync(file)) return [{ kind, log: file }];
    if (existsSync(join('/etc/systemd/system', unit))) return [{ kind, log: `journalctl -u ${unit}` }];
    return existsSync(join(userUnits, unit)) ? [{ kind, log: `journalctl --user -u ${unit}` }] : [];
  });
}

function notInFile({ kind, pid }: ProcessInfo): VregError {
  const name = kind === 'serve' ? 'daemon' : 'agent';
  return new VregError('NO_LIVE', `the log of the vreg ${name} (pid ${pid}) is not in a file`, {
    hint: 'it goes to the terminal or pipe of the process; --detach writes it to a file',
  });
}
