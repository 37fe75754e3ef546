/** `--detach`: the same program again, without a terminal, with its output in a file. */
import { spawn } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, openSync, readSync } from 'node:fs';
import { dirname } from 'node:path';
import { VregError } from '../src/protocol/errors.ts';

/** What the program in the background says when it is up, over the IPC channel that only it has. */
interface Ready {
  ready: true;
}

/**
 * Starts the program again with these arguments and resolves with its pid when it says that it is ready.
 * @throws VregError with its exit code's meaning lost but its last words kept, when it ends before that
 */
export async function startInBackground(argv: readonly string[], logFile: string): Promise<number> {
  mkdirSync(dirname(logFile), { recursive: true, mode: 0o700 });
  const log = openSync(logFile, 'a+', 0o600);
  const before = fstatSync(log).size;
  const child = spawn(process.execPath, [process.argv[1]!, ...argv], {
    detached: true,
    stdio: ['ignore', log, log, 'ipc'],
  });
  try {
    return await new Promise<number>((resolve, reject) => {
      child.once('message', (message: Ready) => {
        if (message.ready) resolve(child.pid!);
      });
      child.once('error', reject);
      child.once('exit', (code, signal) => {
        const words = Buffer.alloc(4096);
        const length = readSync(log, words, 0, words.length, before);
        const said = words.toString('utf8', 0, length).trim().split('\n');
        reject(
          new VregError('LISTEN', `it ended at once with ${signal ?? code}: ${said[0]?.replace(/^vreg: /, '')}`, {
            hint: said[1]?.replace(/^hint: /, '') ?? `its log is ${logFile}`,
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

/** Tells the program that started this one in the background that it is up; does nothing in the foreground. */
export function tellReady(): void {
  process.send?.({ ready: true } satisfies Ready);
  if (process.connected) process.disconnect();
}
