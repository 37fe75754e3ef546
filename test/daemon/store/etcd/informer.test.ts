/** Answers that a healthy etcd does not give. The view is also tested against real clusters in `test/etcd/`. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { EtcdClient } from '../../../../daemon/store/etcd/etcd-client.ts';
import { MessageReader, MessageWriter } from '../../../../daemon/store/etcd/protobuf.ts';
import { startView } from '../../../helpers/etcd-replica.ts';
import { header, keyValue, serveFakeEtcd } from '../../../helpers/fake-etcd.ts';
import { until } from '../../../helpers/until.ts';

/** The number in a field of a message; 0 if it is absent. */
function numberIn(message: MessageReader, field: number): number {
  while (message.next()) if (message.field === field) return message.number();
  return 0;
}

/** The start revision of a request to create a watch; undefined for other requests. */
function startRevision(request: Buffer): number | undefined {
  const reader = new MessageReader(request);
  if (!reader.next() || reader.field !== 1) return undefined;
  return numberIn(reader.message(), 3);
}

const created = (revision: number) => new MessageWriter().message(1, header(revision)).flag(3, true);
const put = (key: string, revision: number, version: number) =>
  new MessageWriter().number(1, 0).message(2, keyValue(key, revision, version, `${revision}`));

/** Serves a list of one key at revision 10, and watches from a script. */
async function serve(t: test.TestContext, script: (start: number, send: (response: MessageWriter) => void) => void) {
  let lists = 0;
  const starts: number[] = [];
  const endpoint = await serveFakeEtcd(t, {
    unary: {
      'KV/Range': (request) => {
        // The view reads its last event again before it resumes.
        if (numberIn(new MessageReader(request), 4) === 12)
          return new MessageWriter().message(1, header(1000)).message(2, keyValue('/t/s/a', 12, 2, '12'));
        lists++;
        return new MessageWriter()
          .message(1, header(10))
          .message(2, keyValue('/t/s/a', 5, 1, 'a'))
          .number(4, 1);
      },
    },
    watch: (request, send) => {
      const start = startRevision(request);
      if (start === undefined) return;
      starts.push(start);
      script(starts.length, send);
    },
  });
  const client = await EtcdClient.open({ endpoints: [endpoint], prefix: '/t/' });
  t.after(() => client.close());
  return { view: await startView(t, client), starts, lists: () => lists };
}

test('the watch resumes after the last event, and not at the revision of a header', async (t) => {
  const { view, starts } = await serve(t, (turn, send) => {
    // The store is at revision 1000, and the watch still catches up.
    send(created(1000));
    if (turn > 1) return;
    send(new MessageWriter().message(1, header(1000)).message(11, put('/t/s/a', 12, 2)));
    send(new MessageWriter().message(1, header(1000)).flag(4, true).bytes(6, 'etcdserver: no leader'));
  });
  await until('the second watch', () => starts.length === 2);
  assert.deepEqual(starts, [11, 13]);
  assert.equal(view.informer.revision, 12);
});

test('a missing event is noticed by the version of its key, counted, and repaired by a list', async (t) => {
  const { view, lists } = await serve(t, (turn, send) => {
    send(created(10));
    if (turn === 1)
      send(
        new MessageWriter()
          .message(1, header(14))
          .message(11, put('/t/s/b', 12, 1))
          .message(11, put('/t/s/a', 14, 3)),
      );
  });
  await until('the view lists again', () => view.informer.lists === 2);
  assert.equal(view.informer.gaps, 1);
  assert.equal(view.events.length, 0, 'nothing of the batch was applied');
  assert.deepEqual([...view.values], [['/t/s/a', 'a']]);
  assert.match(view.problems.join('\n'), /an event of \/t\/s\/a is missing: version 3 follows 1/);
  assert.ok(lists() >= 2);
});

test('an event that arrives in fragments is applied as a whole', async (t) => {
  const { view } = await serve(t, (_turn, send) => {
    send(created(10));
    send(
      new MessageWriter()
        .message(1, header(12))
        .flag(7, true)
        .message(11, put('/t/s/b', 12, 1)),
    );
    send(
      new MessageWriter()
        .message(1, header(12))
        .flag(7, true)
        .message(11, put('/t/s/c', 12, 1)),
    );
    send(new MessageWriter().message(1, header(12)).message(11, put('/t/s/a', 12, 2)));
  });
  await until('the view has the batch', () => view.informer.revision === 12);
  assert.equal(view.batches.filter(({ source }) => source === 'watch').length, 1);
  assert.equal(view.events.length, 3);
});

test('an answer of another cluster is another history', async (t) => {
  const { view } = await serve(t, (turn, send) => {
    if (turn > 1) send(created(10));
    else send(new MessageWriter().message(1, new MessageWriter().id(1, 9n).number(3, 10)).flag(3, true));
  });
  await until('the view lists again', () => view.informer.lists === 2);
  assert.equal(view.batches.at(-1)?.isReset, true);
});
