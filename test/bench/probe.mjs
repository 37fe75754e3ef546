/**
 * Preloaded into each server under test with `node --import`. Answers questions of the benchmark over the IPC channel, so that the
 * server needs no code for it.
 */
import { isMainThread } from 'node:worker_threads';

/** Milliseconds between two ticks of the sampler, the shortest time of a timer. */
const TICK = 1;

let sampler;

/** Measures for how long the event loop is blocked: each tick that is late shows a block of this length. */
function startSampler() {
  const started = performance.now();
  const blocks = [];
  let last = started;
  const timer = setInterval(() => {
    const now = performance.now();
    if (now - last > TICK) blocks.push(now - last - TICK);
    last = now;
  }, TICK);
  return {
    stop() {
      clearInterval(timer);
      return { time: performance.now() - started, blocks };
    },
  };
}

const QUESTIONS = {
  /** CPU time of all threads since the start in microseconds; memory, and its peak since the start, in bytes. */
  usage() {
    const { user, system } = process.cpuUsage();
    const peak = process.resourceUsage().maxRSS * 1024;
    return { cpu: user + system, memory: process.memoryUsage.rss(), peak };
  },
  startSampler() {
    sampler = startSampler();
  },
  /** Milliseconds since `startSampler`, and those of each block of the event loop. */
  stopSampler: () => sampler.stop(),
};

// The worker threads of the server preload this file, too.
if (isMainThread && process.send) {
  const send = process.send.bind(process);
  process.on('message', ({ question }) => {
    if (question) send({ question, answer: QUESTIONS[question]() });
  });
  process.channel.unref();
  // A daemon with a channel would report its start to the command that has detached it, and disconnect.
  process.send = undefined;
}
