import { createWriteStream, existsSync, openSync, renameSync, rmSync, statSync, type WriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { isSilence } from '../client/transport.ts';
import { type Context, defineCommand } from '../command.ts';
import { cannotWrite, VregError } from '../protocol/errors.ts';

/** Milliseconds between two probes of the registry while it makes the copy: a backup may end so much later. */
const PROBE_INTERVAL = 5000;

export const backup = defineCommand<{ force?: boolean }>({
  name: 'backup',
  summary: 'back up the running registry to a file',
  description:
    'Writes a consistent copy of the running registry to a file. The daemon verifies the copy before it sends it. To restore it, use vreg daemon restore. Works with a registry in etcd, too, through any replica. The time for the copy is not limited, unless --timeout is given; but a registry that stops responding ends it.',
  arguments: [{ name: 'file', about: 'file to write', file: true }],
  flags: [{ flags: '--force', about: 'overwrite an existing file' }],
  examples: [
    { about: 'back up now', command: 'vreg backup registry-backup.db' },
    { about: 'back up every night, from cron', command: 'vreg backup --force /var/backups/vreg.db' },
    { about: 'restore a backup', command: 'vreg daemon restore registry-backup.db' },
  ],
  exits: [2, 4, 8],
  async run(context, [path], { force }) {
    if (existsSync(path!) && !force) {
      throw new VregError('CONFLICT', `${path} already exists`, {
        field: 'file',
        hint: 'choose another name, or pass --force',
      });
    }
    // The download gets its final name only when it is complete, so a partial file is never mistaken for a backup.
    const draft = `${path}.part-${process.pid}`;
    let output: WriteStream | undefined;
    try {
      // Open the file before the daemon makes a copy, so that a path that cannot be written fails early.
      output = createWriteStream(draft, { fd: openSync(draft, 'w', 0o600), flush: true });
      await pipeline(await openCopy(context), output);
      renameSync(draft, path!);
    } catch (cause) {
      output?.destroy();
      rmSync(draft, { force: true });
      if (cause instanceof VregError) throw cause;
      context.signal.throwIfAborted();
      if ((cause as NodeJS.ErrnoException).path === undefined && (cause as NodeJS.ErrnoException).code !== 'ENOSPC') {
        throw new VregError('UNREACHABLE', `the connection to ${context.client().url} broke during the backup`, {
          hint: `${path} is unchanged; try again`,
          cause,
        });
      }
      throw cannotWrite(path!, cause, { field: 'file', hint: 'check its folder and the free disk space' });
    }
    const bytes = statSync(path!).size;
    await context.print({ kind: 'value', text: path!, data: { file: path, bytes } });
  },
});

/**
 * Waits for the copy, whose duration grows with the registry, so only an explicit timeout limits it. Without one, a registry that
 * does not respond to a probe either is frozen, and would never send the copy.
 */
async function openCopy(context: Context): Promise<AsyncIterable<Uint8Array>> {
  if (context.config.isSet('timeout')) return context.client().backup();
  const frozen = new AbortController();
  const opened = new AbortController();
  const client = context.freshClient({ signal: AbortSignal.any([context.signal, frozen.signal]) });
  void untilSilent(context, opened.signal).then((error) => error && frozen.abort(error));
  try {
    return await client.backup(Number.POSITIVE_INFINITY);
  } finally {
    opened.abort();
  }
}

/** @param ended ends the probes @returns the error of a probe without a response; undefined if the probes have ended before */
async function untilSilent(context: Context, ended: AbortSignal): Promise<VregError | undefined> {
  while (!ended.aborted) {
    try {
      await context.sleep(PROBE_INTERVAL, ended);
      await context.client().health();
    } catch (error) {
      if (!ended.aborted && error instanceof VregError && isSilence(error.cause as Error)) return error;
    }
  }
  return undefined;
}
