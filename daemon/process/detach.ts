/** `--detach`: starts the same program again without a terminal and writes its output to a log file. */
import { spawn } from 'node:child_process';
import { closeSync, fstatSync, readSync } from 'node:fs';
import { dirname } from 'node:path';
import { programCommand } from '../../src/program.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import { openLogFile } from './log-file.ts';
import { makeStateDir } from './state-dir.ts';

/** Bytes of the log that are searched for the first line of a program that crashed at start. */
const CRASH_LOG_BYTES = 4096;

/** The only message that the detached program sends over its IPC channel: it is ready, or the reason why it failed. */
type StartReport =
  | { ready: true; warning?: string | undefined }
  | { failed: { code: ErrorCode; message: string; field?: string | undefined; hint?: string | undefined } };

export interface DetachedProcess {
  pid: number;
  /** A problem that does not prevent the program from running, such as an unreachable registry. */
  warning?: string | undefined;
}

/**
 * Starts the program again with these arguments and resolves when it reports that it is ready.
 * @param patience milliseconds, after which it resolves with a warning, and the program continues to start
 * @throws VregError the error with which the detached program failed; STORE_UNUSABLE if the log cannot be written;
 *   INTERNAL if the program exited without a report
 */
export async function startDetached(
  argv: readonly string[],
  logFile: string,
  patience?: number,
): Promise<DetachedProcess> {
  makeStateDir(dirname(logFile));
  const log = openLogFile(logFile);
  const logSize = fstatSync(log).size;
  const [program, ...script] = programCommand();
  const child = spawn(program, [...script, ...argv], {
    detached: true,
    stdio: ['ignore', log, log, 'ipc'],
  });
  let timer: NodeJS.Timeout | undefined;
  let onClose = (_code: number | null, _signal: NodeJS.Signals | null) => {};
  try {
    return await new Promise<DetachedProcess>((resolve, reject) => {
      if (patience !== undefined)
        timer = setTimeout(() => resolve({ pid: child.pid!, warning: 'it is still starting' }), patience);
      child.once('message', (report: StartReport) => {
        if ('ready' in report) return resolve({ pid: child.pid!, warning: report.warning });
        const { code, message, field, hint } = report.failed;
        reject(
          new VregError(code, message, {
            ...(field === undefined ? {} : { field }),
            ...(hint === undefined ? {} : { hint }),
          }),
        );
      });
      child.once('error', reject);
      // Unlike `exit`, this comes after all messages.
      onClose = (code, signal) => {
        const output = Buffer.alloc(CRASH_LOG_BYTES);
        const length = readSync(log, output, 0, output.length, logSize);
        const [firstLine = ''] = output.toString('utf8', 0, length).trim().split('\n');
        reject(
          new VregError(
            'INTERNAL',
            `the process exited immediately with ${signal ?? code}${firstLine && `: ${firstLine}`}`,
            {
              hint: `see its log: ${logFile}`,
            },
          ),
        );
      };
      child.once('close', onClose);
    });
  } finally {
    clearTimeout(timer);
    // The process may still be exiting after its report, and would then read a descriptor that is closed or used by others.
    child.off('close', onClose);
    closeSync(log);
    if (child.connected) child.disconnect();
    child.unref();
  }
}

/**
 * Reports to the process that ran {@link startDetached} that this process is ready. Does nothing in the foreground.
 * @param warning a problem that does not prevent this process from running
 */
export function reportReady(warning?: string): Promise<void> {
  return send({ ready: true, warning });
}

/** Reports to the process that ran {@link startDetached} why this process failed to start. Does nothing in the foreground. */
export async function reportFailure(error: unknown): Promise<void> {
  if (!(error instanceof VregError)) return;
  const { code, message, field, hint } = error;
  await send({ failed: { code, message, field, hint } });
}

/** Sends one report and closes the channel. */
async function send(report: StartReport): Promise<void> {
  if (!process.send) return;
  // Ignore errors: the parent may have exited, which does not affect this process.
  await new Promise((resolve) => process.send!(report, resolve));
  if (process.connected) process.disconnect();
}
