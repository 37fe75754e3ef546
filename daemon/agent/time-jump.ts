/**
 * Notices that time has jumped: the process was stopped, the VM was suspended, or somebody set the clock. After each of
 * them the registry may have given this VM up, so the next beat is due at once.
 */

/** Milliseconds between two looks. */
const LOOK_EVERY = 1000;
/** Milliseconds by which a look may be late, or the two clocks may part, without anything having happened. */
const TOLERANCE = 3000;

/** @returns what ends it */
export function watchTimeJumps(jumped: (ms: number) => void): () => void {
  let monotonic = performance.now();
  let wall = Date.now();
  const timer = setInterval(() => {
    const passed = performance.now() - monotonic;
    const shown = Date.now() - wall;
    monotonic += passed;
    wall += shown;
    // A monotonic clock may stand still while a VM is suspended; then only the wall clock tells.
    if (passed - LOOK_EVERY > TOLERANCE || Math.abs(shown - passed) > TOLERANCE) jumped(Math.round(shown));
  }, LOOK_EVERY);
  timer.unref();
  return () => clearInterval(timer);
}
