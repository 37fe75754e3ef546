/** How the URL of a VM is built from its address, its services and the URL of the registry. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { urlOf } from '../../src/fleet/lookup.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { aVm } from '../helpers/vm.ts';

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
