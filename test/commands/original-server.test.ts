import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import test, { type TestContext } from 'node:test';
import { vreg } from '../helpers/cli.ts';

/** A server that gives every request this answer. */
async function answering(t: TestContext, status: number, body: unknown, type = 'application/json'): Promise<string> {
  const server = createServer((_request, response) => {
    response.writeHead(status, { 'content-type': type }).end(typeof body === 'string' ? body : JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

// ESC, BEL, CSI as one character, CR, LF, TAB, DEL, right-to-left override, line separator.
const EVIL = 'x\u001b[2J\u0007\u009b31m\r\n\t\u007f\u202e\u2028y';
const RAW = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2028\u2029]/;
const VM = {
  id: EVIL,
  name: EVIL,
  role: EVIL,
  status: EVIL,
  address: EVIL,
  services: [{ name: EVIL, port: 1 }],
  metadata: { [EVIL]: EVIL },
  registeredBy: EVIL,
  registeredAt: EVIL,
  lastSeen: EVIL,
  deleted: EVIL,
};

const COMMANDS = [
  'ls',
  'get a',
  'get a b',
  'discover infra',
  'addr infra',
  'url infra',
  'pause a',
  'rm a --yes',
  'heartbeat a',
  'register a',
];

for (const format of ['table', 'wide', 'json', 'ndjson', 'yaml', 'name', 'tsv']) {
  for (const tty of [true, false]) {
    test(`control characters of a foreign server are never printed raw, in ${format} ${tty ? 'on a terminal' : 'in a pipe'}`, async (t) => {
      const url = await answering(t, 200, { ...VM, vms: [VM], count: 1 });
      for (const command of COMMANDS) {
        const { stdout, stderr } = await vreg([...command.split(' '), '-o', format, '--no-headers'], {
          url,
          tty,
          env: { NO_COLOR: '1' },
        });
        assert.doesNotMatch(stdout, RAW, command);
        assert.doesNotMatch(stderr, RAW, command);
        assert.match(stdout, /x.*y/, command);
        // What a script reads line by line stays on its line.
        const lines = stdout.split('\n').length - 1;
        if (['name', 'tsv', 'ndjson'].includes(format)) assert.equal(lines, command === 'get a b' ? 2 : 1, command);
      }
    });
  }
}

test('JSON keeps what it escapes', async (t) => {
  const url = await answering(t, 200, { vms: [VM], count: 1 });
  const [vm] = JSON.parse((await vreg(['ls', '--json'], { url })).stdout) as (typeof VM)[];
  assert.equal(vm!.name, EVIL);
});

for (const json of [true, false]) {
  test(`control characters in an error are not printed raw${json ? ' in JSON' : ''}`, async (t) => {
    const url = await answering(t, 400, { error: EVIL, hint: EVIL });
    for (const command of ['ls', 'get a b', 'register a', 'rm a b --yes']) {
      const { code, stdout, stderr } = await vreg([...command.split(' '), ...(json ? ['--json'] : [])], { url });
      assert.deepEqual([code, stdout], [5, '']);
      assert.doesNotMatch(stderr, RAW);
    }
  });
}

const NOT_A_REGISTRY: readonly [name: string, status: number, body: unknown, type: string, code: number][] = [
  ['a web page', 200, '<html>hello</html>', 'text/html', 1],
  ['an empty answer', 200, '', 'text/plain', 1],
  ['another JSON', 200, { hello: 1 }, 'application/json', 1],
  ['a JSON list', 200, [], 'application/json', 1],
  ['a JSON null', 200, 'null', 'application/json', 1],
  ['a redirect', 302, '', 'text/plain', 1],
  ['a 404 page', 404, '<html>', 'text/html', 1],
  ['a gateway’s 502', 502, '<html>', 'text/html', 8],
  ['a bare 500', 500, 'oops', 'text/plain', 1],
  ['a 418', 418, 'teapot', 'text/plain', 1],
];

for (const [name, status, body, type, code] of NOT_A_REGISTRY) {
  test(`${name} in place of a registry is an error that says what came and what to do`, async (t) => {
    const url = await answering(t, status, body, type);
    for (const command of ['ls', 'get a', 'discover infra', 'register a', 'pause a']) {
      const told = await vreg(command.split(' '), { url });
      assert.deepEqual([told.code, told.stdout], [code, ''], `${command}: ${told.stderr}`);
      assert.match(told.stderr, new RegExp(String(status)), command);
      assert.match(told.stderr, /\nhint: .+\n$/, command);
      assert.doesNotMatch(told.stderr, /unexpected error|<html>/, command);
    }
  });
}

test('a registry that does not answer in time is exit 8 and says how long that was', async (t) => {
  const server = createServer(() => {});
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { code, stderr } = await vreg(['ls', '--timeout', '100ms'], { url });
  assert.equal(code, 8);
  assert.match(
    stderr,
    /^vreg: cannot reach the registry at .* \(no answer within 0\.1 s, from VERS_INFRA_URL\)\nhint: /,
  );
});

test('-v says on stderr what is asked, and leaves stdout alone', async (t) => {
  const url = await answering(t, 200, { vms: [], count: 0 });
  const { stdout, stderr } = await vreg(['ls', '-v', '--json'], { url });
  assert.equal(stdout, '[]\n');
  assert.match(stderr, /^vreg: GET http:\/\/127\.0\.0\.1:\d+\/registry\/vms\?include=liveness 200 \d+ ms\n$/);
});

test('a URL with a password in it is refused, and not repeated', async () => {
  const { code, stdout, stderr } = await vreg(['ls'], { url: 'http://bob:s3cret@127.0.0.1:9' });
  assert.deepEqual([code, stdout], [5, '']);
  assert.doesNotMatch(stderr, /s3cret|bob/);
  assert.match(stderr, /\nhint: put the token into a file/);
});

test('a token that no header can carry is refused before anything is asked, and not repeated', async () => {
  for (const token of ['s3\ncret', 's3cret é', 'two words']) {
    const { code, stderr } = await vreg(['ls'], { url: 'http://127.0.0.1:9', env: { VERS_AUTH_TOKEN: token } });
    assert.equal(code, 5, stderr);
    assert.match(stderr, /the token \(from VERS_AUTH_TOKEN\) has characters that no header can carry/);
    assert.doesNotMatch(stderr, /cret|words/);
  }
});
