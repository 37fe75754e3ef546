/** `GET /registry/recent`: the events that the event log retains, newest first. */
import type { RequestContext, Result } from '../context.ts';
import { parseFilter } from './event-filter.ts';

/** Events in a response, unless the request asks for another number. */
const RECENT = 200;
/** Most events in such a response. */
const MAX_RECENT = 4000;
/** UTF-16 units of JSON after which such a response ends, because an entry may be as large as a request body. */
const MAX_RECENT_SIZE = 1_048_576;

export function recentEvents(ctx: RequestContext): Result {
  const { registry } = ctx.services;
  const limit = ctx.number('limit', 1, MAX_RECENT) ?? RECENT;
  const { select } = parseFilter(ctx);
  registry.sweep();
  const found: string[] = [];
  let size = 0;
  for (const event of registry.events.newestFirst()) {
    const selected = select(event);
    if (!selected) continue;
    size += selected.json.length;
    if (found.length === limit || (found.length > 0 && size > MAX_RECENT_SIZE)) break;
    found.push(selected.json);
  }
  return { status: 200, body: `{"events":[${found.join(',')}],"count":${found.length}}` };
}
