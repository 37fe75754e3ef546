import assert from 'node:assert/strict';
import test from 'node:test';
import { urlOf } from '../../src/fleet/lookup.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'old', role: 'infra', address: '10.0.0.1', services: [{ name: 'api', port: 8080 }] }),
  aVm({ id: 'new', role: 'infra', address: '10.0.0.2' }),
];

test('addr prints one bare address and a newline', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  for (const more of [[], ['-o', 'tsv'], ['-o', 'table'], ['-o', 'name'], ['--no-headers']]) {
    for (const tty of [true, false]) {
      assert.deepEqual(await vreg(['addr', 'infra', ...more], { url, tty }), {
        code: 0,
        stdout: '10.0.0.1\n',
        stderr: '',
      });
    }
  }
});

test('addr in JSON says of which VM the address is', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { stdout } = await vreg(['addr', 'infra', '--json'], { url });
  assert.deepEqual(JSON.parse(stdout), { id: 'old', address: '10.0.0.1' });
});

test('--pick chooses among several', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const pick = async (which: string) => (await vreg(['addr', 'infra', '--pick', which], { url })).stdout;
  assert.equal(await pick('first'), '10.0.0.1\n');
  assert.equal(await pick('newest'), '10.0.0.2\n');
  assert.match(await pick('random'), /^10\.0\.0\.[12]\n$/);
  assert.deepEqual(await vreg(['addr', 'infra', '--pick', 'frist'], { url }), {
    code: 5,
    stdout: '',
    stderr: 'vreg: invalid --pick "frist"; did you mean "first"?\nhint: one of: first, newest, random\n',
  });
});

test('url takes the port of the registry, or that of a named service', async (t) => {
  const {
    url,
    at: { port },
  } = await serveApp(t);
  await seed(url, FLEET);
  const told = async (...more: string[]) => (await vreg(['url', 'infra', ...more], { url })).stdout;
  assert.equal(await told(), `http://10.0.0.1:${port}\n`);
  assert.equal(await told('--service', 'api'), 'http://10.0.0.1:8080\n');
  assert.equal(await told('--scheme', 'wss', '--path', 'x'), `wss://10.0.0.1:${port}/x\n`);
  assert.deepEqual(JSON.parse(await told('--json')), { id: 'old', url: `http://10.0.0.1:${port}` });
});

const REGISTRY = 'http://registry:3000';
const URLS: readonly [
  name: string,
  vm: Pick<Vm, 'address' | 'services'>,
  registry: string,
  parts: Parameters<typeof urlOf>[2],
  url: string,
][] = [
  ['a name', { address: 'a.vm.vers.sh' }, REGISTRY, {}, 'http://a.vm.vers.sh:3000'],
  ['a registry on its scheme’s port', { address: 'a' }, 'https://registry', {}, 'http://a'],
  ['a registry on a unix socket', { address: 'a' }, 'unix:/run/vreg.sock', {}, 'http://a'],
  ['a registry behind a path', { address: 'a' }, 'http://registry:3000/base', {}, 'http://a:3000'],
  ['an address with a port of its own', { address: 'a:81' }, REGISTRY, {}, 'http://a:81'],
  [
    'a service of an address with a port of its own',
    { address: 'a:81', services: [{ name: 's', port: 82 }] },
    REGISTRY,
    { service: 's' },
    'http://a:82',
  ],
  ['an IPv6 address', { address: 'fd00::1' }, REGISTRY, {}, 'http://[fd00::1]:3000'],
  ['an IPv6 address in brackets', { address: '[fd00::1]' }, REGISTRY, {}, 'http://[fd00::1]:3000'],
  ['an IPv6 address with a port', { address: '[fd00::1]:81' }, REGISTRY, {}, 'http://[fd00::1]:81'],
  [
    'a service of an IPv6 address',
    { address: '::1', services: [{ name: 's', port: 82 }] },
    REGISTRY,
    { service: 's' },
    'http://[::1]:82',
  ],
  ['another scheme', { address: 'a' }, REGISTRY, { scheme: 'https' }, 'https://a:3000'],
  ['a path with a slash', { address: 'a' }, REGISTRY, { path: '/x/y?z=1' }, 'http://a:3000/x/y?z=1'],
  ['a path without one', { address: 'a' }, REGISTRY, { path: 'x/y' }, 'http://a:3000/x/y'],
  ['the path of the root', { address: 'a' }, REGISTRY, { path: '/' }, 'http://a:3000/'],
];

for (const [name, vm, registry, parts, expected] of URLS) {
  test(`the URL of ${name} is ${expected}`, () => {
    const url = urlOf({ ...aVm(), registeredAt: '', lastSeen: '', ...vm }, registry, parts);
    assert.equal(url, expected);
    assert.ok(URL.canParse(url));
  });
}
