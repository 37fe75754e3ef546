/**
 * Waits for a state that no event announces (another process's, mostly), and fails when it does not come.
 * @param what said in the failure
 * @param patience milliseconds; generous, since it is only used up by a failure
 */
export async function until<T>(what: string, look: () => T | Promise<T>, patience = 15_000): Promise<NonNullable<T>> {
  const deadline = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited ${patience} ms for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
