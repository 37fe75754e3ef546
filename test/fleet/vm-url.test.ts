/** How the URL of a VM is built from its address, its services and the URL of the registry. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type UrlParts, urlOf } from '../../src/fleet/vm-url.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Service, Vm } from '../../src/protocol/vm.ts';
import { aVm } from '../helpers/vm.ts';

const REGISTRY = 'http://registry:3000';
const VERS = 'https://x.vm.vers.sh:3000';
/** The services of the infra VM in vers-agent-services: several on one port. */
const INFRA = ['board', 'feed', 'registry'].map((name) => ({ name, port: 3000, healthPath: '/health' }));

function vmWith(address: string, services?: readonly object[]): Vm {
  return {
    ...aVm({ address }),
    registeredAt: '',
    lastSeen: '',
    ...(services ? { services: services as Service[] } : {}),
  };
}

const on81 = (protocol?: unknown) => [{ name: 's', port: 81, protocol }];

const URLS: readonly [name: string, vm: Vm, registry: string, parts: UrlParts, url: string][] = [
  ['a VM with one service', vmWith('a', on81()), REGISTRY, {}, 'http://a:81'],
  ['a VM whose services share a port', vmWith('a', INFRA), REGISTRY, {}, 'http://a:3000'],
  ['a VM whose address has a port', vmWith('a:81'), REGISTRY, {}, 'http://a:81'],
  ['a VM with a port in its address and services', vmWith('a:81', INFRA), REGISTRY, {}, 'http://a:81'],
  ['a service of an address with a port', vmWith('a:81', INFRA), REGISTRY, { service: 'board' }, 'http://a:3000'],
  ['one of several services', vmWith('a', [...INFRA, ...on81()]), REGISTRY, { service: 's' }, 'http://a:81'],
  ['an IPv6 address', vmWith('fd00::1', on81()), REGISTRY, {}, 'http://[fd00::1]:81'],
  ['an IPv6 address in brackets', vmWith('[fd00::1]', on81()), REGISTRY, {}, 'http://[fd00::1]:81'],
  ['an IPv6 address with a port', vmWith('[fd00::1]:82', on81()), REGISTRY, {}, 'http://[fd00::1]:82'],
  ['a service of an IPv6 address', vmWith('[::1]:82', on81()), REGISTRY, { service: 's' }, 'http://[::1]:81'],
  ['a path with a slash', vmWith('a:81'), REGISTRY, { path: '/x/y?z=1' }, 'http://a:81/x/y?z=1'],
  ['a path without one', vmWith('a:81'), REGISTRY, { path: 'x/y' }, 'http://a:81/x/y'],
  ['the root', vmWith('a:81'), REGISTRY, { path: '/' }, 'http://a:81/'],
  ['a VM with a registry on a unix socket', vmWith('a:81'), 'unix:/run/vreg.sock', {}, 'http://a:81'],

  ['a service with a protocol', vmWith('a', on81('https')), REGISTRY, {}, 'https://a:81'],
  ['a protocol in upper case', vmWith('a', on81('HTTPS')), REGISTRY, {}, 'https://a:81'],
  ['a protocol other than http', vmWith('a', on81('postgres')), REGISTRY, {}, 'postgres://a:81'],
  ['an empty protocol', vmWith('a', on81('')), REGISTRY, {}, 'http://a:81'],
  ['a protocol that is null', vmWith('a', on81(null)), REGISTRY, {}, 'http://a:81'],
  [
    'a protocol http in the domain of an https registry',
    vmWith('a.vm.vers.sh', on81('http')),
    VERS,
    {},
    'http://a.vm.vers.sh:81',
  ],
  [
    'a port of which one service states the protocol',
    vmWith('a', [...INFRA, { name: 'tls', port: 3000, protocol: 'https' }]),
    REGISTRY,
    {},
    'https://a:3000',
  ],
  ['an address with the port of a service', vmWith('a:81', [...INFRA, ...on81('wss')]), REGISTRY, {}, 'wss://a:81'],
  ['--scheme with a protocol', vmWith('a', on81('https')), REGISTRY, { scheme: 'ws' }, 'ws://a:81'],
  ['--scheme with an unusable protocol', vmWith('a', on81('a b')), REGISTRY, { scheme: 'http' }, 'http://a:81'],
  [
    '--scheme in the domain of an https registry',
    vmWith('a.vm.vers.sh:81'),
    VERS,
    { scheme: 'http' },
    'http://a.vm.vers.sh:81',
  ],

  ['a VM in the domain of an https registry', vmWith('a.vm.vers.sh', INFRA), VERS, {}, 'https://a.vm.vers.sh:3000'],
  ['the registry’s own VM', vmWith('X.vm.vers.sh.', INFRA), VERS, {}, 'https://X.vm.vers.sh.:3000'],
  [
    'a VM in the domain of an http registry',
    vmWith('a.vm.vers.sh:81'),
    'http://x.vm.vers.sh',
    {},
    'http://a.vm.vers.sh:81',
  ],
  ['a VM in another domain', vmWith('a.example.com:81'), VERS, {}, 'http://a.example.com:81'],
  ['a VM in a domain that ends alike', vmWith('a.evilvm.vers.sh:81'), VERS, {}, 'http://a.evilvm.vers.sh:81'],
  ['a VM in a domain below', vmWith('x.vm.vers.sh.example.com:81'), VERS, {}, 'http://x.vm.vers.sh.example.com:81'],
  ['a VM below the registry’s name', vmWith('a.example.com:81'), 'https://example.com', {}, 'https://a.example.com:81'],
  ['a VM with the same top-level domain', vmWith('other.com:81'), 'https://example.com', {}, 'http://other.com:81'],
  ['a VM with an IP address', vmWith('10.0.0.2:81'), 'https://10.0.0.1:3000', {}, 'http://10.0.0.2:81'],
  ['an IPv6 VM of an https registry', vmWith('[fd00::2]:81'), 'https://[fd00::1]:3000', {}, 'http://[fd00::2]:81'],
  ['a VM on the registry’s own IP address', vmWith('10.0.0.1:81'), 'https://10.0.0.1:3000', {}, 'https://10.0.0.1:81'],
  [
    'a VM on the registry’s own IPv6 address',
    vmWith('[FD00:0::1]:81'),
    'https://[fd00::1]',
    {},
    'https://[FD00:0::1]:81',
  ],
  ['a VM on the host of an http registry', vmWith('10.0.0.1:81'), 'http://10.0.0.1:3000', {}, 'http://10.0.0.1:81'],
  ['a VM on localhost with its registry', vmWith('LocalHost:81'), 'https://localhost', {}, 'https://LocalHost:81'],
  ['a name without a domain', vmWith('a:81'), 'https://registry', {}, 'http://a:81'],
];

for (const [name, vm, registry, parts, expected] of URLS) {
  test(`the URL of ${name} is ${expected}`, () => {
    const url = urlOf(vm, [registry], parts);
    assert.equal(url, expected);
    assert.ok(URL.canParse(url));
  });
}

const REFUSED: readonly [name: string, vm: Vm, parts: UrlParts, message: RegExp][] = [
  ['no services and no port', vmWith('a'), {}, /^VM "vm-1" has no port: it is registered without services$/],
  ['an empty list of services', vmWith('a', []), {}, /has no port/],
  [
    'services on two ports',
    vmWith('a', [...INFRA, ...on81()]),
    {},
    /^VM "vm-1" has several ports: board:3000, feed:3000, registry:3000, s:81$/,
  ],
  [
    'services on two ports, for --scheme',
    vmWith('a', [...INFRA, ...on81()]),
    { scheme: 'https' },
    /has several ports: /,
  ],
  [
    'two services of one name',
    vmWith('a', [...on81(), { name: 's', port: 82 }]),
    { service: 's' },
    /several ports: s:81, s:82$/,
  ],
  ['no service of the name', vmWith('a', INFRA), { service: 's' }, /^VM "vm-1" has no valid port for the service "s"$/],
  [
    'two protocols on its port',
    vmWith('a', [...on81('https'), { name: 't', port: 81, protocol: 'wss' }]),
    {},
    /^VM "vm-1" has services with different protocols on one port: s \(https\), t \(wss\)$/,
  ],
  ...['a b', 'http://', '//x', 'javascript', 'file', '1x', 5].map((protocol): (typeof REFUSED)[number] => [
    `the protocol ${protocol}`,
    vmWith('a', on81(protocol)),
    {},
    /^the protocol ".*" of the service "s" of VM "vm-1" is not allowed in a URL$/,
  ]),
];

for (const [name, vm, parts, message] of REFUSED) {
  test(`a VM with ${name} has no URL, and the error names the next step`, () => {
    assert.throws(
      () => urlOf(vm, [REGISTRY], parts),
      (error) =>
        error instanceof VregError && error.exit === 5 && message.test(error.message) && error.hint !== undefined,
    );
  });
}
