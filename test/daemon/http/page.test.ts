/** How the daemon serves the files of the fleet page. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { pino } from 'pino';
import { requestIds } from '../../../daemon/http/audit.ts';
import { whileLoading } from '../../../daemon/http/loading.ts';
import { chooseEncoding, loadPage, prefersHtml } from '../../../daemon/http/page.ts';
import { RequestCounts } from '../../../daemon/http/request-counts.ts';
import { ROUTES } from '../../../daemon/http/routes.ts';
import { serveApp } from '../../helpers/app.ts';
import { Connection } from '../../helpers/connection.ts';
import { stub } from '../../helpers/stub.ts';

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

test('browsers get the page, and other clients the error of a registry, at /', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const ask = async (accept: string, token = 's3cret') => {
    const answer = await fetch(`${url}/`, { headers: { accept, ...(token && { authorization: `Bearer ${token}` }) } });
    return { status: answer.status, type: answer.headers.get('content-type'), text: await answer.text() };
  };
  const browser = await ask('text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8', '');
  assert.deepEqual([browser.status, browser.type], [200, 'text/html; charset=utf-8']);
  assert.match(browser.text, /src="\.\/ui\/app-[\w-]+\.js"/);
  for (const accept of ['*/*', 'application/json', 'application/json, text/html;q=0.9', 'text/html;q=0']) {
    const { status, text } = await ask(accept);
    assert.equal(status, 404, accept);
    assert.match(text, /no such route: GET \//);
  }
  assert.equal((await ask('*/*', '')).status, 401);
});

test('the client prefers HTML if it lists text/html before JSON in quality', () => {
  assert.equal(prefersHtml('text/html'), true);
  assert.equal(prefersHtml('application/json;q=0.5, text/html'), true);
  for (const accept of [undefined, '', '*/*', 'text/*', 'application/json,text/html'])
    assert.equal(prefersHtml(accept), false);
});

test('the index is not cached, its files are immutable, and all have the policy without exceptions', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const index = await fetch(`${url}/ui/`);
  const html = await index.text();
  const names = [...html.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map(([, name]) => name!);
  assert.deepEqual(names.map((name) => name.replace(/-.*\./, '.')).sort(), ['app.js', 'icon.svg', 'style.css']);
  assert.equal(index.headers.get('cache-control'), 'no-store');
  const files = await Promise.all(names.map((name) => fetch(`${url}/ui/${name}`)));
  for (const { headers, status } of files) {
    assert.equal(status, 200);
    assert.equal(headers.get('cache-control'), 'public, max-age=31536000, immutable');
  }
  for (const { headers } of [index, ...files]) {
    assert.equal(headers.get('content-security-policy'), POLICY);
    assert.equal(headers.get('cross-origin-opener-policy'), 'same-origin');
    assert.equal(headers.get('cross-origin-resource-policy'), 'same-origin');
    assert.equal(headers.get('referrer-policy'), 'no-referrer');
    assert.equal(headers.get('x-content-type-options'), 'nosniff');
  }
  // Without inline scripts and styles.
  assert.doesNotMatch(html, /<script(?![^>]*src=)|<style|style=|\son\w+=/);
  await Promise.all(files.map((file) => file.arrayBuffer()));
});

test('a file is sent in the encoding that the client accepts', async (t) => {
  const { at } = await serveApp(t);
  const [name, file] = [...loadPage()].find(([each]) => each.startsWith('app-'))!;
  const read = async (accept: string) => {
    const connection = Connection.open(t, at);
    connection.send(`GET /ui/${name} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: ${accept}\r\nConnection: close\r\n\r\n`);
    const { headers } = await connection.responseHead();
    connection.socket.destroy();
    return [headers['content-encoding'], Number(headers['content-length'])];
  };
  assert.deepEqual(await read('gzip, deflate, br'), ['br', file.br.length]);
  assert.deepEqual(await read('gzip, br;q=0'), ['gzip', file.gzip.length]);
  assert.deepEqual(await read('identity'), [undefined, file.identity.length]);
  assert.deepEqual(brotliDecompressSync(file.br), file.identity);
  assert.deepEqual(gunzipSync(file.gzip), file.identity);
  assert.equal(chooseEncoding(undefined), 'identity');
});

test('the files of the first paint have at most 60 kB with gzip', () => {
  const files = [...loadPage()].filter(([name]) => /^(index|app-|style-|icon-|shared-worker-)/.test(name));
  assert.equal(files.length, 5);
  assert.ok(files.reduce((sum, [, { gzip }]) => sum + gzip.length, 0) <= 60_000);
});

test('a daemon that is loading its store sends the same page, and nothing else', async (t) => {
  const { url } = await serveApp(t);
  const stopping = new AbortController();
  const loading = whileLoading({
    log: pino({ level: 'silent' }),
    newRequestId: requestIds(),
    requests: new RequestCounts(ROUTES),
    version: '0.0.0',
    maxBody: 1000,
    stopping: stopping.signal,
  });
  const early = await stub(t, loading.onRequest);
  const ask = async (base: string, path: string, method: string) => {
    const answer = await fetch(base + path, { method, headers: { accept: 'text/html' }, redirect: 'manual' });
    // The id and the time differ by request.
    const headers = [...answer.headers].filter(([name]) => !['x-request-id', 'date', 'keep-alive'].includes(name));
    return { status: answer.status, headers: Object.fromEntries(headers), text: await answer.text() };
  };
  const files = [...loadPage().keys()].filter((name) => !name.endsWith('.html')).map((name) => `/ui/${name}`);
  for (const method of ['GET', 'HEAD'])
    for (const path of ['/', '/ui', '/ui/', '/ui/login?token=x', ...files])
      assert.deepEqual(await ask(early, path, method), await ask(url, path, method), `${method} ${path}`);
  for (const path of ['/ui/session', '/ui/index.html', '/ui/none.js', '/ui/__proto__', '/registry/vms'])
    assert.equal((await ask(early, path, 'GET')).status, 503, path);
  assert.equal((await ask(early, '/ui/login', 'POST')).status, 503);
  assert.equal((await fetch(`${early}/`)).status, 503, 'a client that prefers JSON');
  stopping.abort();
  assert.equal((await ask(early, '/ui/', 'GET')).status, 503);
});

test('an unknown file is 404, and /ui leads to /ui/', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  for (const name of ['app-old.js', 'index.html', 'root.html', '__proto__'])
    assert.equal((await fetch(`${url}/ui/${name}`)).status, 404, name);
  const redirect = await fetch(`${url}/ui`, { redirect: 'manual' });
  assert.deepEqual([redirect.status, redirect.headers.get('location')], [308, 'ui/']);
});
