/**
 * Keeps `process.nextTick` fast. Node calls it about eight times per request, each time with an object of the same shape. If no
 * such object exists during a full garbage collection, V8 forgets the shape, and the calls take five times as long until the
 * process ends (Node before 26). Loading a fleet of 10,000 VMs causes such a collection.
 */
import { executionAsyncResource } from 'node:async_hooks';

const retained = new Set<object>();

/** Retains one object of `process.nextTick`. Call it before anything large is loaded. */
export function retainTickObject(): void {
  process.nextTick(() => retained.add(executionAsyncResource()));
}
