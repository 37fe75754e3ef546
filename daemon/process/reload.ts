/** What a SIGHUP makes a daemon read again, one thing after the other. */

export interface Reloader {
  /** What is read again, as the log names it: `the token file`. */
  what: string;
  /** Takes over what is new. On a throw, what was there stays in force. */
  reload(): Promise<void> | void;
}

export interface ReloadLog {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Tells the service manager, which waits for the second when it has heard the first. */
export interface ReloadNotice {
  reloading(): void;
  ready(): void;
}

/**
 * Runs all reloaders, and goes on when one fails: a wrong file is told, and is no reason to keep an old version of another.
 * @returns a function that reloads; while it does, a further call has it done once more afterwards
 */
export function createReload(
  reloaders: readonly Reloader[],
  log: ReloadLog,
  notice?: ReloadNotice,
): () => Promise<void> {
  let running: Promise<void> | undefined;
  let again = false;
  const once = async () => {
    notice?.reloading();
    for (const { what, reload } of reloaders) {
      try {
        await reload();
        log.info({ what }, `read ${what} again`);
      } catch (error) {
        log.error(
          { what, err: error },
          `cannot read ${what} again: ${(error as Error).message}; the old stays in force`,
        );
      }
    }
    if (reloaders.length === 0) log.info({}, 'nothing to read again');
    notice?.ready();
  };
  const all = async () => {
    do {
      again = false;
      await once();
    } while (again);
  };
  return () => {
    if (running) again = true;
    running ??= all().finally(() => (running = undefined));
    return running;
  };
}
