import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import test from 'node:test';
import { advertisedUrl } from '../../../../daemon/http/server/listen.ts';

test('a registry that listens on all addresses advertises its host name, and any other one its address', () => {
  assert.equal(advertisedUrl('http://0.0.0.0:3000'), `http://${hostname()}:3000`);
  assert.equal(advertisedUrl('https://[::]:3000'), `https://${hostname()}:3000`);
  for (const url of ['http://10.0.0.0:3000', 'http://[::1]:3000', 'unix:/run/vreg.sock', undefined])
    assert.equal(advertisedUrl(url), url);
});
