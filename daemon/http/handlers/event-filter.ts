/** The filter of an event stream: the query parameters `role`, `status` and `id`, and the VMs that the principal may read. */
import { eventInRole } from '../../registry/events.ts';
import { permits } from '../../registry/preconditions.ts';
import type { RequestContext } from '../context.ts';
import type { EventSubject, SelectEvent } from './event-fanout.ts';

export interface EventFilter {
  /** Filters with equal keys match the same events. */
  key: string;
  /** True unless the filter matches every event. */
  isLimited: boolean;
  readonly select: SelectEvent;
}

/**
 * Parses the filter. `role`, `status` and `id` each accept several values, separated by commas. An event that changes the role
 * or status matches both the old and the new value.
 */
export function parseFilter(ctx: RequestContext): EventFilter {
  const given = [ctx.param('role'), ctx.param('status'), ctx.param('id')];
  const [roles, statuses, ids] = given.map((text) =>
    text === undefined ? undefined : new Set<string | undefined>(text.split(',')),
  );
  const { readFilter } = ctx;
  const matches = (subject: EventSubject) =>
    permits(readFilter, subject) &&
    (!roles || roles.has(subject.role) || roles.has(subject.before.role)) &&
    (!ids || ids.has(subject.id)) &&
    (!statuses || statuses.has(subject.status) || statuses.has(subject.before.status));
  const select: SelectEvent = (event) => {
    const visible = eventInRole(event, readFilter?.role);
    return visible && matches(visible) ? visible : undefined;
  };
  const isLimited = [...given, readFilter].some((limit) => limit !== undefined);
  return { key: JSON.stringify([...given, readFilter?.vm, readFilter?.role]), isLimited, select };
}
