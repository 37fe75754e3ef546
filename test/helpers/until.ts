/**
 * Waits for a state that no event announces, mostly of another process.
 * @param what names the state in the error
 * @param look returns a falsy value until the state is reached
 * @param patience milliseconds; generous, because only a failing test uses them up
 * @throws if the state is not reached in time
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
