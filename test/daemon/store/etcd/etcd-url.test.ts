import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { isEtcdUrl, parseEtcdUrl, readEtcdTarget } from '../../../../daemon/store/etcd/etcd-url.ts';
import { tempDir } from '../../../helpers/daemon.ts';

test('the URL names members, the prefix and TLS', () => {
  assert.deepEqual(parseEtcdUrl('etcd://a:2379,b:2380,10.0.0.3:1/vreg/v1/'), {
    endpoints: ['a:2379', 'b:2380', '10.0.0.3:1'],
    prefix: '/vreg/v1/',
    isTls: false,
  });
  assert.deepEqual(parseEtcdUrl('ETCDS://[::1]:2379,a-b.example'), {
    endpoints: ['[::1]:2379', 'a-b.example:2379'],
    prefix: '/vreg/v1/',
    isTls: true,
  });
});

test('the default prefix is /vreg/v1/, and a prefix ends with a slash', () => {
  const prefixOf = (url: string) => parseEtcdUrl(url).prefix;
  assert.equal(prefixOf('etcd://a'), '/vreg/v1/');
  assert.equal(prefixOf('etcd://a/'), '/vreg/v1/');
  assert.equal(prefixOf('etcd://a/test'), '/test/');
  assert.equal(prefixOf('etcd://a/x/y_z/1.0/'), '/x/y_z/1.0/');
});

for (const [url, message] of [
  ['http://a:2379', 'invalid store "http://a:2379": it must begin with etcd:// or etcds://'],
  ['etcd:a', 'invalid store "etcd:a": it must begin with etcd:// or etcds://'],
  ['etcd://', 'invalid store "etcd://": the name of a member is missing'],
  ['etcd://a,,b', 'invalid store "etcd://a,,b": the name of a member is missing'],
  ['etcd://me:secret@a', 'the URL of etcd must not contain a user'],
  ['etcd://a:x', 'invalid member "a:x" in the URL of etcd: it must be host or host:port'],
  ['etcd://::1', 'invalid member "::1" in the URL of etcd: it must be host or host:port'],
  ['etcd://-a', 'invalid member "-a" in the URL of etcd: it must be host or host:port'],
  ['etcd://a b', 'invalid member "a b" in the URL of etcd: it must be host or host:port'],
  ['etcd://a:0', 'invalid port in "a:0": it must be between 1 and 65535'],
  ['etcd://a:65536', 'invalid port in "a:65536": it must be between 1 and 65535'],
  ['etcd://a,a:2379', 'the URL names a:2379 twice'],
  [
    'etcd://a/x//y',
    'invalid prefix "/x//y" in the URL of etcd: it consists of names with letters, digits, ".", "-" and "_"',
  ],
  [
    'etcd://a/?x=1',
    'invalid prefix "/?x=1" in the URL of etcd: it consists of names with letters, digits, ".", "-" and "_"',
  ],
] as const) {
  test(`${url} is refused with its reason`, () => {
    assert.throws(() => parseEtcdUrl(url), { code: 'USAGE', field: 'store', message });
  });
}

test('an error does not repeat the password of a URL', () => {
  assert.throws(
    () => parseEtcdUrl('etcd://me:secret@a'),
    ({ message, hint }: Error & { hint: string }) => !message.includes('secret') && /--etcd-user/.test(hint),
  );
});

test('a path or an HTTP URL is no URL of etcd', () => {
  assert.deepEqual(['etcd://a', 'etcds://a', '/var/lib/etcd', 'http://a'].map(isEtcdUrl), [true, true, false, false]);
});

test('certificates and the password are read from their files', async (t) => {
  const dir = tempDir(t);
  const file = (name: string, text: string) => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const [ca, cert, key] = ['ca', 'cert', 'key'].map((name) => file(name, name));
  const passwordFile = file('password', 'p w\n');
  assert.deepEqual(await readEtcdTarget('etcds://a', { user: 'vreg', passwordFile, ca, cert, key }), {
    endpoints: ['a:2379'],
    prefix: '/vreg/v1/',
    tls: { ca: Buffer.from('ca'), cert: Buffer.from('cert'), key: Buffer.from('key') },
    credentials: { user: 'vreg', password: 'p w' },
  });
  assert.deepEqual(await readEtcdTarget('etcds://a', {}), { endpoints: ['a:2379'], prefix: '/vreg/v1/', tls: {} });
  assert.deepEqual(await readEtcdTarget('etcd://a', {}), { endpoints: ['a:2379'], prefix: '/vreg/v1/' });
  const empty = file('empty', '\n');
  for (const [options, field, message] of [
    [{ user: 'vreg' }, 'etcd-password-file', /belong together/],
    [{ passwordFile }, 'etcd-user', /belong together/],
    [{ cert: cert! }, 'etcd-key', /belong together/],
    [{ key: key! }, 'etcd-cert', /belong together/],
    [{ user: 'vreg', passwordFile: empty }, 'etcd-password-file', /is empty/],
    [{ ca: join(dir, 'missing') }, 'etcd-ca', /cannot read --etcd-ca .*missing \(ENOENT\)/],
  ] as const)
    await assert.rejects(readEtcdTarget('etcds://a', options), { code: 'USAGE', field, message });
  await assert.rejects(readEtcdTarget('etcd://a', { ca: ca! }), { field: 'store', message: /begins with etcds:/ });
});
