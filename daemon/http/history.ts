/** The past of one VM as JSON. A long one is read and sent page by page, as its reader takes it. */
import { Readable } from 'node:stream';
import type { Registry } from '../registry/registry.ts';
import type { Answer, Call } from './call.ts';
import type { Pieces } from './pieces.ts';

/** Changes of a page: what is answered when nothing is said; two megabytes at most, as the journal bounds each. */
const PAGE = 100;

/** @throws VregError NOT_FOUND, before anything is sent */
export async function historyOf({ registry, pieces, id }: Call, limit: number): Promise<Answer> {
  const first = await pieces.inLine(() => readPage(registry, id, limit));
  const start = `{"id":${JSON.stringify(id)},"history":[`;
  if (first.end === undefined) return { status: 200, body: `${start}${first.text}],"count":${first.count}}` };
  return { status: 200, body: Readable.from(piecesOf(registry, pieces, id, limit, start, first)) };
}

interface Page {
  text: string;
  count: number;
  /** Revision of its last change, where there may be more. */
  end: number | undefined;
}

/** @param limit of this page and all that follow it */
async function readPage(registry: Registry, id: string, limit: number, before?: number): Promise<Page> {
  const items = await registry.history(id, Math.min(limit, PAGE), before);
  const isLast = items.length < PAGE || limit === PAGE;
  return {
    text: JSON.stringify(items).slice(1, -1),
    count: items.length,
    end: isLast ? undefined : items.at(-1)!.revision,
  };
}

async function* piecesOf(
  registry: Registry,
  pieces: Pieces,
  id: string,
  limit: number,
  start: string,
  first: Page,
): AsyncGenerator<string> {
  let { count, end } = first;
  yield start;
  yield first.text;
  while (end !== undefined) {
    const before = end;
    const page = await pieces.inLine(() => readPage(registry, id, limit - count, before));
    if (page.count > 0) yield `,${page.text}`;
    count += page.count;
    end = page.end;
  }
  yield `],"count":${count}}`;
}
