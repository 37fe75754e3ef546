/** Errors that end the program with an exit code of their own, without a message. */

/** The abort reason when a signal stops the command. The exit code is 128 plus the signal number. */
export class Interrupted extends Error {
  readonly exit: number;
  readonly signal: NodeJS.Signals;

  constructor(signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP') {
    super(`ended by ${signal}`);
    this.signal = signal;
    this.exit = 128 + { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }[signal];
  }
}

/** Thrown when a program that the command ran has failed. The exit code is the exit code of that program. */
export class ChildEnded extends Error {
  readonly exit: number;

  constructor(exit: number) {
    super(`the command ended with ${exit}`);
    this.exit = exit;
  }
}
