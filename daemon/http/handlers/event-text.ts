/** The text of events in the event stream, as defined by the HTML standard. */
import { formatPosition, type Position } from '../../../src/protocol/position.ts';
import type { Event } from '../../registry/events.ts';

/** Its position is the id from which the subscriber can resume. */
export function formatEvent({ type, position, json }: Event): string {
  return `id: ${position}\nevent: ${type}\ndata: ${json}\n\n`;
}

/** Formats an event of an initial state. It has no id, because a subscriber can resume only after the complete state. */
export function formatWithoutId({ type, json }: Event): string {
  return `event: ${type}\ndata: ${json}\n\n`;
}

export function formatControl(type: 'reset' | 'synced' | 'lagged', at: Position): string {
  const position = formatPosition(at);
  const id = type === 'synced' ? `id: ${position}\n` : '';
  return `${id}event: ${type}\ndata: ${JSON.stringify({ type, revision: at.revision, position })}\n\n`;
}
