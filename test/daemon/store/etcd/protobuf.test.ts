import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { MalformedMessage, MessageReader, MessageWriter } from '../../../../daemon/store/etcd/protobuf.ts';

const read = (bytes: Buffer): MessageReader => {
  const reader = new MessageReader(bytes);
  assert.ok(reader.next());
  return reader;
};

test('numbers, ids and bytes are read as they were written', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1 << 20 }),
      fc.maxSafeNat(),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.uint8Array({ maxLength: 300 }),
      (field, number, id, bytes) => {
        const message = new MessageWriter().number(field, number).id(field, id).bytes(field, bytes).finish();
        const reader = read(message);
        assert.deepEqual([reader.field, reader.number()], [field, number]);
        assert.ok(reader.next());
        assert.equal(reader.id(), id);
        assert.ok(reader.next());
        assert.deepEqual(reader.bytes(), Buffer.from(bytes));
        assert.equal(reader.next(), false);
      },
    ),
  );
});

test('the encoding is that of Protocol Buffers', () => {
  const hex = (writer: MessageWriter) => writer.finish().toString('hex');
  // The examples of protobuf.dev/programming-guides/encoding.
  assert.equal(hex(new MessageWriter().number(1, 150)), '089601');
  assert.equal(hex(new MessageWriter().bytes(2, 'testing')), '120774657374696e67');
  assert.equal(hex(new MessageWriter().message(3, new MessageWriter().number(1, 150))), '1a03089601');
  assert.equal(hex(new MessageWriter().id(1, -2n)), '08feffffffffffffffff01');
  assert.equal(read(Buffer.from('08feffffffffffffffff01', 'hex')).signed(), -2);
});

test('optional fields are omitted, and zero is written where it is meant', () => {
  const writer = new MessageWriter().optionalNumber(1, undefined).flag(2, false).id(3, undefined).bytes(4, undefined);
  assert.equal(writer.finish().length, 0);
  assert.equal(new MessageWriter().number(1, 0).finish().toString('hex'), '0800');
});

test('fields that are not read are skipped, of any wire type', () => {
  const fixed64 = Buffer.from(`31${'00'.repeat(8)}`, 'hex');
  const fixed32 = Buffer.from(`3d${'00'.repeat(4)}`, 'hex');
  const rest = new MessageWriter()
    .number(1, 1)
    .id(2, 1n << 60n)
    .bytes(3, 'x')
    .number(9, 7)
    .finish();
  const reader = new MessageReader(Buffer.concat([fixed64, fixed32, rest]));
  const fields: number[] = [];
  while (reader.next()) {
    fields.push(reader.field);
    if (reader.field === 9) assert.equal(reader.number(), 7);
  }
  assert.deepEqual(fields, [6, 7, 1, 2, 3, 9]);
});

for (const [name, hex] of [
  ['a varint that ends early', '0896'],
  ['a varint of eleven bytes', '08ffffffffffffffffffff01'],
  ['a string that ends early', '12077465'],
  ['a length larger than the message', '12ffffffff0f'],
  ['a group, which no message of etcd has', '0b'],
] as const) {
  test(`${name} is refused`, () => {
    const skip = () => {
      const reader = new MessageReader(Buffer.from(hex, 'hex'));
      while (reader.next());
    };
    assert.throws(skip, MalformedMessage);
  });
}

test('a number above the largest safe integer, and a field of another type, are refused', () => {
  const large = new MessageWriter().id(1, 2n ** 53n).finish();
  assert.throws(() => read(large).number(), /field 1 is too large for a number/);
  assert.throws(() => read(large).bytes(), /field 1 has wire type 0 instead of 2/);
});

test('random bytes are either decoded or refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const reader = new MessageReader(Buffer.from(bytes));
      try {
        while (reader.next());
      } catch (error) {
        assert.ok(error instanceof MalformedMessage);
      }
    }),
  );
});
