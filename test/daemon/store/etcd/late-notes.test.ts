import assert from 'node:assert/strict';
import test from 'node:test';
import { EtcdError } from '../../../../daemon/store/etcd/etcd-error.ts';
import { EtcdKeys } from '../../../../daemon/store/etcd/etcd-keys.ts';
import { LateNotes } from '../../../../daemon/store/etcd/late-notes.ts';
import { OwnWrites } from '../../../../daemon/store/etcd/own-writes.ts';
import type { Outcome, Write } from '../../../../daemon/store/etcd/transaction.ts';
import { tagAt } from '../../../helpers/store.ts';

const SPACE: Outcome = { applied: true, revision: 1, responses: [] };

/** Notes whose transactions wait until they are answered. */
function setUp() {
  const sent: { write: Write; answer: (outcome: Outcome | EtcdError) => void }[] = [];
  const commit = async (write: Write) => {
    const outcome = await new Promise<Outcome | EtcdError>((answer) => sent.push({ write, answer }));
    if (outcome instanceof EtcdError) throw outcome;
    return outcome;
  };
  const notes = new LateNotes({ commit }, new EtcdKeys('/vreg/'), new OwnWrites('a'), () => 5000);
  const add = (id: string, revision: number) => {
    const note = { type: 'deregistered', at: 0, by: 'ops', changes: {} } as const;
    const tag = tagAt(revision);
    notes.add({ kind: 'remove', id, revision: 0, tag, previousTag: tagAt(1), note }, { revision, tag });
  };
  return { notes, sent, add };
}

test('a replica that closes writes the notes even if it has just tried to', async () => {
  const { notes, sent, add } = setUp();
  add('vm-1', 5);
  notes.check();
  sent[0]!.answer(new EtcdError('no-space', 'database space exceeded'));
  await new Promise(setImmediate);
  notes.check();
  assert.equal(sent.length, 1, 'too early for another attempt');
  const closed = notes.write();
  assert.equal(sent.length, 2);
  sent[1]!.answer(SPACE);
  await closed;
  await notes.write();
  assert.equal(sent.length, 2, 'nothing is left');
});

test('a replica that closes waits for the notes that are being written, and writes each once', async () => {
  const { notes, sent, add } = setUp();
  for (let n = 0; n < 60; n++) add(`vm-${n}`, 5 + n);
  notes.check();
  let isClosed = false;
  const closed = notes.write().then(() => {
    isClosed = true;
  });
  sent[0]!.answer(SPACE);
  await new Promise(setImmediate);
  assert.equal(isClosed, false);
  sent[1]!.answer(SPACE);
  await closed;
  const keys = sent.flatMap(({ write }) => write.success.map(({ key }) => key.toString()));
  assert.deepEqual([keys.length, new Set(keys).size, sent.length], [60, 60, 2]);
});
