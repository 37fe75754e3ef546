import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import test from 'node:test';
import { HealthChecks, HealthState, probe } from '../../../daemon/agent/health-checks.ts';
import { until } from '../../helpers/until.ts';

test('the first probe decides; after that, `fall` or `rise` probes in a row change the health', () => {
  const verdict = new HealthState({ rise: 2, fall: 3 });
  const seen = [true, false, false, true, false, false, false, true, false, true, true].map((passed) => {
    verdict.add(passed);
    return verdict.health === 'passing' ? 'p' : 'f';
  });
  assert.equal(seen.join(''), 'ppppppffffp');
});

test('a service passes with a 2xx or 3xx at its path, or with a connection if it has none', async (t) => {
  const server = createServer((request, response) => {
    response.statusCode = Number(request.url!.slice(1));
    response.end();
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  for (const [healthPath, passes] of [
    ['/200', true],
    ['/302', true],
    ['204', true],
    ['/404', false],
    ['/500', false],
  ] as const) {
    assert.equal(await probe({ name: 'web', port, healthPath }, 2000), passes, healthPath);
  }
  assert.equal(await probe({ name: 'web', port }, 2000), true);
  server.close();
  server.closeAllConnections();
  await once(server, 'close');
  assert.equal(await probe({ name: 'web', port }, 2000), false);
  assert.equal(await probe({ name: 'web', port, healthPath: '/200' }, 2000), false);
});

test('a probe of a service that never answers fails after its timeout', async (t) => {
  const mute = createTcpServer(() => {}).listen(0, '127.0.0.1');
  t.after(() => mute.close());
  await once(mute, 'listening');
  const { port } = mute.address() as AddressInfo;
  assert.equal(await probe({ name: 'mute', port, healthPath: '/' }, 50), false);
});

test('health checks report each service and call back on a change', async (t) => {
  const server = createServer((_request, response) => response.end()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  let changes = 0;
  const services = [{ name: 'web', port, healthPath: '/' }];
  const checks = new HealthChecks(services, { interval: 20, timeout: 1000, rise: 1, fall: 2 }, () => changes++);
  t.after(() => checks.stop());
  await until('the service to pass', () => checks.report().web === 'passing');
  server.close();
  server.closeAllConnections();
  await until('the service to fail', () => checks.report().web === 'failing');
  assert.equal(changes, 2);
});
