/** A subscriber to server-sent events that records them, and can disconnect. */
import { once } from 'node:events';
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';
import type { TestContext } from 'node:test';
import { createParser } from 'eventsource-parser';
import type { StreamEvent, VmEvent } from '../../src/protocol/events.ts';
import { until } from './until.ts';

export interface Told {
  /** The event's id on the wire, if it has one. */
  id: string | undefined;
  event: StreamEvent;
}

export interface EventReader {
  status: number;
  headers: IncomingHttpHeaders;
  told: Told[];
  comments: string[];
  ended: Promise<unknown>;
  /** Disconnects. */
  drop(): void;
  /** Waits until so many events of a type were received. */
  seen(type: StreamEvent['type'], times?: number): Promise<void>;
  /** All events so far as `type id`, or `type` if the event has no VM. */
  lines(): string[];
}

export async function readEvents(
  t: TestContext,
  base: string,
  path = '/registry/events',
  headers: Record<string, string> = {},
): Promise<EventReader> {
  const asked = request(base + path, { headers, agent: false }).end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  asked.on('error', () => {});
  const told: Told[] = [];
  const comments: string[] = [];
  const parser = createParser({
    onEvent: ({ event: type, data, id }) => told.push({ id, event: { type, ...JSON.parse(data) } as StreamEvent }),
    onComment: (text) => comments.push(text),
  });
  answer.setEncoding('utf8').on('data', (text: string) => parser.feed(text));
  answer.on('error', () => {});
  const ended = new Promise((resolve) => answer.once('close', resolve));
  t.after(() => asked.destroy());
  return {
    status: answer.statusCode!,
    headers: answer.headers,
    told,
    comments,
    ended,
    drop: () => asked.destroy(),
    seen: async (type, times = 1) => {
      await until(`${times} × ${type}`, () => told.filter(({ event }) => event.type === type).length >= times);
    },
    lines: () => told.map(({ event }) => ('vm' in event ? `${event.type} ${event.vm.id}` : event.type)),
  };
}

export function isChange(event: StreamEvent): event is VmEvent {
  return ['registered', 'updated', 'status', 'deregistered'].includes(event.type);
}
