import { createWriteStream, existsSync, openSync, renameSync, rmSync, statSync, type WriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { defineCommand } from '../command.ts';
import { VregError } from '../protocol/errors.ts';

export const backup = defineCommand<{ force?: boolean }>({
  name: 'backup',
  summary: 'write a consistent copy of the running registry into a file',
  description:
    'Writes a consistent copy of the running registry into a file, which the daemon has checked. vreg daemon restore puts it in place.',
  arguments: [{ name: 'file', about: 'file to write' }],
  flags: [{ flags: '--force', about: 'replace the file when it is there' }],
  examples: [
    { about: 'now', command: 'vreg backup registry-backup.db' },
    { about: 'every night, from cron', command: 'vreg backup --force /var/backups/vreg.db' },
    { about: 'and back', command: 'vreg daemon restore registry-backup.db' },
  ],
  exits: [2, 4, 8],
  async run(context, [path], { force }) {
    if (existsSync(path!) && !force) {
      throw new VregError('CONFLICT', `${path} is there already`, {
        field: 'file',
        hint: 'choose another name, or pass --force',
      });
    }
    // Under another name until it is whole, so that a broken download is never taken for a backup.
    const draft = `${path}.part-${process.pid}`;
    let output: WriteStream | undefined;
    try {
      // Before a copy is made for nothing; and opened by now, so that it is removed however soon the copy breaks off.
      output = createWriteStream(draft, { fd: openSync(draft, 'w', 0o600), flush: true });
      await pipeline(await context.client().backup(), output);
      renameSync(draft, path!);
    } catch (cause) {
      output?.destroy();
      rmSync(draft, { force: true });
      if (cause instanceof VregError) throw cause;
      context.signal.throwIfAborted();
      if ((cause as NodeJS.ErrnoException).path === undefined && (cause as NodeJS.ErrnoException).code !== 'ENOSPC') {
        throw new VregError('UNREACHABLE', `the backup from ${context.client().url} broke off`, {
          hint: `${path} is as it was; try again`,
          cause,
        });
      }
      throw new VregError(
        'USAGE',
        `cannot write ${path} (${(cause as NodeJS.ErrnoException).code ?? (cause as Error).message})`,
        {
          field: 'file',
          hint: 'check its folder, and the room on the disk',
          cause,
        },
      );
    }
    const bytes = statSync(path!).size;
    await context.print({ kind: 'value', text: path!, data: { file: path, bytes } });
  },
});
