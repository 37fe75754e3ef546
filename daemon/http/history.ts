/** The past of one VM as JSON. A long one is read and sent page by page, as its reader takes it. */
import { Readable } from 'node:stream';
import type { History, HistoryItem } from '../../src/protocol/events.ts';
import type { Registry } from '../registry/registry.ts';
import type { Answer, Call } from './call.ts';

/** Changes of a page: what is answered when nothing is said; two megabytes at most, as the journal bounds each. */
const PAGE = 100;

/** @throws VregError NOT_FOUND, before anything is sent */
export async function historyOf({ registry, id }: Call, limit: number): Promise<Answer> {
  const first = await registry.history(id, Math.min(limit, PAGE));
  if (first.length === Math.min(limit, PAGE) && limit > PAGE)
    return { status: 200, body: Readable.from(piecesOf(registry, id, limit, first)) };
  const whole = { id, history: first, count: first.length } satisfies History;
  return { status: 200, body: JSON.stringify(whole) };
}

async function* piecesOf(registry: Registry, id: string, limit: number, first: HistoryItem[]): AsyncGenerator<string> {
  let count = 0;
  for (let page = first; page.length > 0; ) {
    yield count === 0 ? `{"id":${JSON.stringify(id)},"history":[` : ',';
    yield JSON.stringify(page).slice(1, -1);
    count += page.length;
    if (count === limit) break;
    page = await registry.history(id, Math.min(limit - count, PAGE), page.at(-1)!.revision);
  }
  yield `],"count":${count}}`;
}
