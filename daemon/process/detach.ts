/** `--detach`: the same program again, without a terminal, with its output in a file. */
import { spawn } from 'node:child_process';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { dirname } from 'node:path';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import { makeStateDir } from './state-dir.ts';

/** Bytes of a log that are looked through for the last words of a program that crashed. */
const LOG_TAIL_BYTES = 4096;

/** What the program in the background says over the IPC channel that only it has: that it is up, or why it is not. */
type StartReport =
  | { ready: true; trouble?: string | undefined }
  | { failed: { code: ErrorCode; message: string; field?: string | undefined; hint?: string | undefined } };

export interface DetachedProcess {
  pid: number;
  /** What is not as it should be, though it goes on: an agent whose registry is away. */
  warning?: string | undefined;
}

/**
 * Starts the program again with these arguments and resolves when it says that it is up.
 * @throws VregError as the program itself ended in; STORE_UNUSABLE when there can be no log
 */
export async function startDetached(argv: readonly string[], logFile: string): Promise<DetachedProcess> {
  makeStateDir(dirname(logFile));
  const log = openLog(logFile);
  const before = fstatSync(log).size;
  const child = spawn(process.execPath, [process.argv[1]!, ...argv], {
    detached: true,
    stdio: ['ignore', log, log, 'ipc'],
  });
  try {
    return await new Promise<DetachedProcess>((resolve, reject) => {
      child.once('message', (word: StartReport) => {
        if ('ready' in word) return resolve({ pid: child.pid!, warning: word.trouble });
        const { code, message, field, hint } = word.failed;
        reject(
          new VregError(code, message, {
            ...(field === undefined ? {} : { field }),
            ...(hint === undefined ? {} : { hint }),
          }),
        );
      });
      child.once('error', reject);
      child.once('exit', (code, signal) => {
        const words = Buffer.alloc(LOG_TAIL_BYTES);
        const length = readSync(log, words, 0, words.length, before);
        const [said = ''] = words.toString('utf8', 0, length).trim().split('\n');
        reject(
          new VregError('INTERNAL', `it ended at once with ${signal ?? code}${said && `: ${said}`}`, {
            hint: `its log is ${logFile}`,
          }),
        );
      });
    });
  } finally {
    closeSync(log);
    if (child.connected) child.disconnect();
    child.unref();
  }
}

/**
 * Tells the program that started this one in the background that it is up; does nothing in the foreground.
 * @param trouble what is not as it should be all the same
 */
export function reportReady(trouble?: string): Promise<void> {
  return send({ ready: true, trouble });
}

/** Tells the program that started this one in the background why it is not up; does nothing in the foreground. */
export async function reportFailure(error: unknown): Promise<void> {
  if (!(error instanceof VregError)) return;
  const { code, message, field, hint } = error;
  await send({ failed: { code, message, field, hint } });
}

/** The first word is the last: after it the channel is closed. */
async function send(word: StartReport): Promise<void> {
  if (!process.send) return;
  // Whoever started this program may have gone meanwhile, which is nothing to it.
  await new Promise((resolve) => process.send!(word, resolve));
  if (process.connected) process.disconnect();
}

function openLog(path: string): number {
  try {
    return openSync(path, 'a+', 0o600);
  } catch (cause) {
    throw new VregError('STORE_UNUSABLE', `cannot write the log ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'check its owner and mode, or choose another --data-dir',
      cause,
    });
  }
}
