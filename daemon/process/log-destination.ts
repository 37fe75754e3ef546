/**
 * The destination of the log. The disk may be full, or the reader of a pipe may have stopped reading. Neither may block the
 * process, so lines that cannot be written are buffered and retried. If the buffer is full, lines are dropped and counted.
 *
 * `pino.destination` is not an alternative: its flush at exit retries forever, so a process whose log cannot be written never
 * exits (sonic-boom 4.2, `flushSync`).
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { openLogFile } from './log-file.ts';

/** Milliseconds between two attempts to write. */
const RETRY_INTERVAL = 100;

export interface LogDestinationOptions {
  /** File descriptor. */
  fd: number;
  /** Maximum number of bytes to buffer. */
  maxBuffered: number;
  /** @returns a line that reports the number of dropped lines */
  droppedNotice: (dropped: number) => string;
}

export class LogDestination {
  #fd: number;
  #isOwnFile = false;
  readonly #maxBuffered: number;
  readonly #droppedNotice: LogDestinationOptions['droppedNotice'];
  #buffered: Buffer[] = [];
  #size = 0;
  #dropped = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor({ fd, maxBuffered, droppedNotice }: LogDestinationOptions) {
    this.#fd = nonBlocking(fd);
    this.#maxBuffered = maxBuffered;
    this.#droppedNotice = droppedNotice;
    process.once('exit', () => this.#flush());
  }

  /** Writes synchronously if possible, so the last line before a crash is not lost. */
  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#size + bytes.length > this.#maxBuffered) {
      this.#dropped++;
      return;
    }
    this.#buffered.push(bytes);
    this.#size += bytes.length;
    if (!this.#timer) this.#flush();
  }

  /**
   * Continues in a new file with this path, after the current one was renamed.
   * @throws VregError STORE_UNUSABLE; the current file then stays in use
   */
  reopen(path: string): void {
    const fd = openLogFile(path);
    // Other threads may open files, so stderr itself cannot be closed and replaced.
    if (this.#isOwnFile) closeSync(this.#fd);
    this.#fd = fd;
    this.#isOwnFile = true;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#buffered.length > 0) {
      const [line] = this.#buffered as [Buffer];
      const written = this.#writeSome(line);
      this.#size -= written;
      if (written < line.length) {
        this.#buffered[0] = line.subarray(written);
        this.#timer = setTimeout(() => this.#flush(), RETRY_INTERVAL).unref();
        return;
      }
      this.#buffered.shift();
    }
    if (this.#dropped === 0) return;
    const dropped = this.#dropped;
    this.#dropped = 0;
    this.write(this.#droppedNotice(dropped));
  }

  /** @returns the number of bytes written; all of them if there is no reader any more */
  #writeSome(bytes: Buffer): number {
    try {
      return writeSync(this.#fd, bytes);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      return code === 'EPIPE' || code === 'EBADF' ? bytes.length : 0;
    }
  }
}

/** Prevents garbage collection for the lifetime of the process, because a collected Socket closes its descriptor. */
const sockets: Socket[] = [];

/** @returns a descriptor for the same file, on which writes fail with EAGAIN instead of waiting for a reader */
function nonBlocking(fd: number): number {
  try {
    const stats = fstatSync(fd);
    // Reopen the file, because other processes that share this descriptor may rely on its blocking mode (Linux,
    // proc_pid_fd(5)).
    if (stats.isFIFO() || stats.isCharacterDevice())
      return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    // A socket cannot be reopened, but Node makes the descriptor of a Socket non-blocking.
    if (stats.isSocket())
      sockets.push(new Socket({ fd, readable: false, writable: true }).on('error', () => {}).unref());
  } catch {
    // The descriptor remains blocking.
  }
  return fd;
}
