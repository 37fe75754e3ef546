/** Lists all keys with a prefix, in pages. */
import type { EtcdClient } from './etcd-client.ts';
import { prefixEnd, type RangeResponse } from './messages.ts';

/** Keys per page at most: 105,000 keys/s instead of 59,000 with 1000. More keys take no less time. */
const MAX_PAGE = 5000;
/** Keys of the first page, which shows how large the values are. */
const FIRST_PAGE = 500;
/** Bytes of a page: the member and this process each buffer one. */
const PAGE_BYTES = 8 << 20;
/** Milliseconds until a page fails. */
const PAGE_TIMEOUT = 10_000;

/**
 * The pages of all keys in their order, at the revision of the first page.
 * @param maxKeys per page
 * @throws EtcdError compacted, if the revision was compacted before the last page was read; denied, unavailable, and others
 */
export async function* pagesOf(client: EtcdClient, prefix: string, maxKeys = MAX_PAGE): AsyncGenerator<RangeResponse> {
  const rangeEnd = prefixEnd(prefix);
  let key: string | Buffer = prefix;
  let revision = 0;
  let limit = Math.min(FIRST_PAGE, maxKeys);
  for (;;) {
    const page: RangeResponse = await client.range(
      { key, rangeEnd, limit, revision },
      { attemptMs: PAGE_TIMEOUT, timeoutMs: PAGE_TIMEOUT },
    );
    yield page;
    if (!page.more || !page.lastKey) return;
    revision ||= page.header.revision;
    // The first key after the last one.
    key = Buffer.concat([page.lastKey, Buffer.of(0)]);
    const bytes = page.kvs.reduce((sum, kv) => sum + kv.value.length, 0) + 1;
    limit = Math.max(1, Math.min(maxKeys, Math.floor((PAGE_BYTES / bytes) * page.kvs.length)));
  }
}
