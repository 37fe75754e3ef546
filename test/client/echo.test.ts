/** A server that shows what it was sent, as a debugging proxy does: the token in it goes no further than this program. */
import assert from 'node:assert/strict';
import type { IncomingMessage, ServerResponse } from 'node:http';
import test from 'node:test';
import { RegistryClient } from '../../src/client.ts';
import type { VregError } from '../../src/protocol/errors.ts';
import { startAgent } from '../helpers/agent/agent.ts';
import { vreg } from '../helpers/cli.ts';
import { json, stub } from '../helpers/stub.ts';
import { openUndici } from '../helpers/transports.ts';
import { until } from '../helpers/until.ts';

/** Contains characters that JSON escapes. */
const TOKEN = String.raw`canary"of\the-token-0123456789`;
/** The first part of the token, by which a test recognizes it in any encoding. */
const CANARY = /canary/;

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

const REFUSALS: Readonly<Record<string, Answer>> = {
  'a refusal in JSON': ({ headers }, response) => {
    const sent = JSON.stringify({ authorization: headers.authorization!.replace('Bearer ', '') });
    const error = `bad request: ${headers.authorization}`;
    json(response, 400, { error, hint: `you sent ${headers.authorization}`, field: headers.authorization, sent });
  },
  'a failure in JSON': ({ headers }, response) =>
    json(response, 502, { error: `upstream failed: ${headers.authorization}`, code: headers.authorization }),
  'a failure as text': ({ headers }, response) => {
    response.writeHead(502, { 'content-type': 'text/plain' }).end(`${'x'.repeat(100)} ${headers.authorization}`);
  },
  'a refused token as text': ({ headers }, response) => {
    response.writeHead(401, { 'content-type': 'text/plain' }).end(`bad token: ${headers.authorization}\n`);
  },
  'a header of a conflict': ({ headers }, response) =>
    json(response, 409, { error: 'no' }, { 'retry-after': headers.authorization! }),
  'the version, and a body that is none': ({ headers }, response) =>
    json(response, 200, { headers }, { 'x-vreg-version': headers.authorization! }),
};

for (const [name, answer] of Object.entries(REFUSALS)) {
  test(`a token that comes back in ${name} is not printed`, async (t) => {
    const url = await stub(t, answer);
    for (const argv of [
      ['ls'],
      ['ls', '--json'],
      ['ls', '-v'],
      ['doctor'],
      ['doctor', '--json'],
      ['status'],
      ['rm', 'a', 'b', '-y'],
    ]) {
      const { stdout, stderr } = await vreg(argv, { url, env: { VERS_AUTH_TOKEN: TOKEN } });
      assert.doesNotMatch(stdout + stderr, CANARY, argv.join(' '));
      assert.notEqual(stdout + stderr, '', argv.join(' '));
    }
  });
}

test('a version that is the token is masked where it is shown', async (t) => {
  const url = await stub(t, ({ headers }, response) =>
    json(response, 200, { vms: [], count: 0, status: 'ok', uptime: 1 }, { 'x-vreg-version': headers.authorization! }),
  );
  const env = { VERS_AUTH_TOKEN: TOKEN };
  const { code, stdout } = await vreg(['status'], { url, env });
  assert.deepEqual([code, stdout.split('\n')[0]], [0, `registry ${url}: ok, vreg Bearer ***, up 1s`]);
  assert.doesNotMatch((await vreg(['doctor'], { url, env })).stdout, CANARY);
});

test('every token that was used is masked, and the rest of the message is unchanged', async (t) => {
  const seen: string[] = [];
  const url = await stub(t, ({ headers }, response) => {
    seen.push(headers.authorization!);
    json(response, 500, { error: `these came: ${seen.join(', ')}` });
  });
  const client = new RegistryClient({ url, openTransport: openUndici, token: 'canary-1' });
  t.after(() => client.close());
  const failure = () =>
    client.health().then(
      () => assert.fail(),
      ({ message }: VregError) => message,
    );
  assert.equal(await failure(), 'these came: Bearer ***');
  client.useToken('canary-1-and-more');
  assert.equal(await failure(), 'these came: Bearer ***, Bearer ***');
});

for (const [name, answer] of Object.entries(REFUSALS)) {
  test(`api prints ${name} without the token in it`, async (t) => {
    const url = await stub(t, answer);
    const { code, stdout, stderr } = await vreg(['api', 'GET', '/health'], { url, env: { VERS_AUTH_TOKEN: TOKEN } });
    if (code !== 0) assert.doesNotMatch(stdout + stderr, CANARY);
    else assert.match(stdout, CANARY, 'an answer is printed as it came');
  });
}

test('a token in a successful response is not masked, because it may be the requested value', async (t) => {
  const url = await stub(t, (_request, response) =>
    json(response, 201, { name: 'a', scope: 'admin', token: TOKEN }, { 'x-vreg-version': '0.0.0' }),
  );
  const client = new RegistryClient({ url, openTransport: openUndici, token: TOKEN });
  t.after(() => client.close());
  assert.equal((await client.createToken({ name: 'a', scope: 'admin' })).token, TOKEN);
});

test('the agent does not log a token that the registry echoes', async (t) => {
  const url = await stub(t, (request, response) => {
    if (request.method === 'POST') return REFUSALS['a failure in JSON']!(request, response);
    return json(response, 200, { status: 'ok', uptime: 1 }, { 'x-vreg-version': '0.0.0' });
  });
  const agent = startAgent(t, url, [], { env: { VERS_AUTH_TOKEN: TOKEN } });
  await until('what the registry said', () => /upstream failed: Bearer \*\*\*/.test(agent.said()));
  await agent.end();
  assert.doesNotMatch(agent.said(), CANARY);
});
