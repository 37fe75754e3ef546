/**
 * Preloaded into each server under test with `node --import`. Answers questions of the benchmark over the IPC channel, so that the
 * server needs no code for it.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';

/** Milliseconds between two samples of the event-loop delay. Each sample includes this time. */
const RESOLUTION = 1;

const delay = monitorEventLoopDelay({ resolution: RESOLUTION });

const QUESTIONS = {
  /** CPU time of all threads since the start in microseconds; memory, and its peak since the start, in bytes. */
  usage() {
    const { user, system } = process.cpuUsage();
    const peak = process.resourceUsage().maxRSS * 1024;
    return { cpu: user + system, memory: process.memoryUsage.rss(), peak };
  },
  startDelay() {
    delay.reset();
    return delay.enable();
  },
  /** Event-loop delay since `startDelay`, in milliseconds. */
  stopDelay() {
    delay.disable();
    const ms = (nanoseconds) => Math.max(0, nanoseconds / 1e6 - RESOLUTION);
    return { p50: ms(delay.percentile(50)), p99: ms(delay.percentile(99)), max: ms(delay.max) };
  },
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
