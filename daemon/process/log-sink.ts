/**
 * Where the log goes: to a file whose disk may be full, or to a pipe whose reader may have stopped. Neither shall keep the
 * registry from answering, so what cannot be written now waits for a while, and what is too much is lost and counted.
 */
import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';

/** Bytes that wait: some thousand lines. */
const MAX_WAITING = 1_048_576;
/** Milliseconds until it is tried again. */
const AGAIN = 100;

export interface LogSinkOptions {
  /** Descriptor. */
  fd: number;
  /** @returns a line that says how many were lost */
  notice: (lost: number) => string;
}

export class LogSink {
  readonly #fd: number;
  readonly #notice: LogSinkOptions['notice'];
  #waiting: Buffer[] = [];
  #size = 0;
  #lost = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor({ fd, notice }: LogSinkOptions) {
    this.#fd = withoutBlocking(fd);
    this.#notice = notice;
    process.once('exit', () => this.#drain());
  }

  /** Written at once where that can be, so that the last line before a crash is there. */
  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#size + bytes.length > MAX_WAITING) {
      this.#lost++;
      return;
    }
    this.#waiting.push(bytes);
    this.#size += bytes.length;
    if (!this.#timer) this.#drain();
  }

  #drain(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#waiting.length > 0) {
      const [line] = this.#waiting as [Buffer];
      const written = this.#put(line);
      this.#size -= written;
      if (written < line.length) {
        this.#waiting[0] = line.subarray(written);
        this.#timer = setTimeout(() => this.#drain(), AGAIN).unref();
        return;
      }
      this.#waiting.shift();
    }
    if (this.#lost === 0) return;
    const lost = this.#lost;
    this.#lost = 0;
    this.write(this.#notice(lost));
  }

  /** @returns how many bytes were taken */
  #put(bytes: Buffer): number {
    try {
      return writeSync(this.#fd, bytes);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // Nobody will ever read it.
      return code === 'EPIPE' || code === 'EBADF' ? bytes.length : 0;
    }
  }
}

/** Held, since with it goes the descriptor. */
const sockets: Socket[] = [];

/** A descriptor of the same file that takes what it can take, and does not wait for a reader. */
function withoutBlocking(fd: number): number {
  try {
    const stats = fstatSync(fd);
    // Opened anew, since whoever shares the descriptor may count on it to wait (Linux, proc_pid_fd(5)).
    if (stats.isFIFO() || stats.isCharacterDevice())
      return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    // A socket cannot be; Node makes one of its own such.
    if (stats.isSocket())
      sockets.push(new Socket({ fd, readable: false, writable: true }).on('error', () => {}).unref());
  } catch {
    // Then it waits.
  }
  return fd;
}
