/** Requests that a stream of events causes. */

/** Milliseconds between two runs: looks immediate, and is far less load than a burst of events. */
const PAUSE = 300;

/**
 * @param task must not reject
 * @returns a function that runs a task now, or after the current run and a pause. However often it is called, at most one run is
 *   in progress, and the last one starts after the last call.
 */
export function coalesce(task: () => Promise<void>): () => void {
  let isRunning = false;
  let isDue = false;
  const run = async () => {
    isDue = true;
    if (isRunning) return;
    isRunning = true;
    while (isDue) {
      isDue = false;
      await task();
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    isRunning = false;
  };
  return () => void run();
}
