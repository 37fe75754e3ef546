/** Stops a process with SIGSTOP, as a pause of its VM does. */
import type { ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

const sleeper = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

/**
 * Returns when each thread has stopped. On a busy machine, the others run on until the thread that receives the signal is
 * scheduled.
 */
export function freeze({ pid }: ChildProcess): void {
  process.kill(pid!, 'SIGSTOP');
  if (process.platform !== 'linux') return;
  while (!hasStopped(pid!)) Atomics.wait(sleeper, 0, 0, 1);
}

/** True if each thread is in the state T, see proc_pid_stat(5). */
function hasStopped(pid: number): boolean {
  return readdirSync(`/proc/${pid}/task`).every((thread) => {
    try {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1');
      return stat.slice(stat.lastIndexOf(')') + 1).startsWith(' T');
    } catch {
      return true; // The thread has ended.
    }
  });
}
