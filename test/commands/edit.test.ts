import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { type Result, seed, vreg } from '../helpers/cli.ts';
import { ENTRY, PROGRAM, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { runVreg } from '../helpers/running.ts';
import { startInTerminal, vregInTerminal } from '../helpers/terminal.ts';
import { unless } from '../helpers/tools.ts';
import { aVm } from '../helpers/vm.ts';

const BEFORE = aVm({ id: 'a', name: 'one', services: [{ name: 's', port: 1 }], metadata: { task: 'x' } });

interface Editing {
  edit(editor: string, id?: string): Promise<Result>;
  entry(id?: string): Promise<Record<string, unknown>>;
  /** Names of the files in which edited texts were kept. */
  kept(): string[];
}

function editing(t: TestContext, url: string): Editing {
  const home = tempDir(t);
  const tmp = join(home, 'tmp');
  mkdirSync(tmp);
  return {
    edit: (editor, id = 'a') =>
      vreg(['edit', id, '-q'], { url, home, answers: [], env: { EDITOR: editor, TMPDIR: tmp } }),
    entry: async (id = 'a') => (await call(url, 'GET', `/registry/vms/${id}`)).body as Record<string, unknown>,
    kept: () => readdirSync(tmp, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.json')),
  };
}

const CHANGES: readonly [editor: string, changed: Record<string, unknown>][] = [
  ['sed -i s/one/two/', { name: 'two' }],
  ['sed -i s/running/paused/', { status: 'paused' }],
  ['sed -i s/vm-1.vm.vers.sh/10.0.0.9/', { address: '10.0.0.9' }],
  [`sed -i 's/"port": 1/"port": 2/'`, { services: [{ name: 's', port: 2 }] }],
  [`sed -i 's/"task": "x"/"other": true/'`, { metadata: { other: true } }],
];

for (const [editor, changed] of CHANGES) {
  test(`EDITOR="${editor}" changes only the edited field and leaves no file`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    const { edit, entry, kept } = editing(t, url);
    const before = await entry();
    const { code, stdout, stderr } = await edit(editor);
    assert.deepEqual([code, stdout, stderr], [0, 'a\n', '']);
    assert.deepEqual(await entry(), { ...before, ...changed });
    assert.deepEqual(kept(), []);
  });
}

test('the editor of the real program uses the terminal, even if stdout is a pipe', unless('python3'), async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [BEFORE]);
  const home = tempDir(t);
  const script = 'id=$("$@"); echo "stdout: $id"';
  const terminal = await startInTerminal(t, ['sh', '-c', script, 'sh', PROGRAM, ...ENTRY, 'edit', 'a', '-q'], {
    url,
    home,
    env: { EDITOR: 'test -t 1 && read -r line && echo "read $line" && sed -i s/one/two/' },
  });
  terminal.type('typed\r');
  assert.equal(await terminal.ended, 0, terminal.text());
  assert.match(terminal.text(), /read typed\r\nstdout: a\r\n$/);
  assert.equal(((await call(url, 'GET', '/registry/vms/a')).body as { name: string }).name, 'two');
});

for (const [signal, code] of [
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  test(
    `${signal} ends edit and its editor with ${code}, changes nothing and keeps the text`,
    unless('python3'),
    async (t) => {
      const { url } = await serveApp(t);
      await seed(url, [BEFORE]);
      const home = tempDir(t);
      const env = { EDITOR: 'edit() { sed -i s/one/two/ "$1"; echo begun; exec sleep 300; }; edit', TMPDIR: home };
      const terminal = await vregInTerminal(t, ['edit', 'a'], { url, home, env });
      await terminal.shows('begun');
      process.kill(terminal.pid, signal);
      assert.equal(await terminal.ended, code, terminal.text());
      const [, file] = /vreg: your edits are in (\S+); start again/.exec(terminal.text())!;
      assert.match(readFileSync(file!, 'utf8'), /"two"/);
      assert.equal(((await call(url, 'GET', '/registry/vms/a')).body as { name: string }).name, 'one');
    },
  );
}

test('edit without a terminal starts no editor, sends no request and exits with 7', async () => {
  const ran = await runVreg(['edit', 'a'], { env: { EDITOR: 'echo ran; true' }, input: 'typed\n' });
  assert.deepEqual(ran, {
    code: 7,
    signal: null,
    stdout: '',
    stderr:
      'vreg: cannot open an editor without a terminal\nhint: in a script, use: vreg update a --status paused, or another field\n',
  });
});

test('services and metadata that are deleted from the text are removed', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [BEFORE]);
  const { edit, entry } = editing(t, url);
  const text = JSON.stringify({ name: 'one', status: 'running', address: BEFORE.address });
  assert.equal((await edit(`echo '${text}' >`)).code, 0);
  const after = await entry();
  assert.deepEqual([after.services ?? [], after.metadata ?? {}], [[], {}]);
});

for (const editor of ['true', `sed -i 's/  / /'`]) {
  test(`EDITOR="${editor}" changes nothing and exits with 0`, async (t) => {
    const { url, store } = await serveApp(t);
    await seed(url, [BEFORE]);
    const { revision } = store.vms.get('a') as unknown as { revision: number };
    const { edit, kept } = editing(t, url);
    assert.deepEqual(await edit(editor), { code: 0, stdout: '', stderr: 'vreg: no changes\n' });
    assert.equal((store.vms.get('a') as unknown as { revision: number }).revision, revision);
    assert.deepEqual(kept(), []);
  });
}

const WRONG: readonly [editor: string, message: RegExp][] = [
  ['echo {nope >', /^vreg: the edited text is not JSON: .*\n/],
  ['echo [] >', /^vreg: the edited text is not a JSON object\n/],
  ['echo null >', /^vreg: the edited text is not a JSON object\n/],
  ['sed -i s/running/resting/', /^vreg: .*status.*resting.*\n/],
  [`sed -i 's/"name"/"role"/'`, /^vreg: role cannot be changed\n/],
  [`sed -i 's/"one"/""/'`, /^vreg: name cannot be empty\n/],
  [`sed -i 's/"port": 1/"port": 0/'`, /^vreg: services\[0\]\.port.*\n/],
  [`sed -i '/"name": "one"/d'`, /^vreg: name .*\n/],
];

for (const [editor, message] of WRONG) {
  test(`EDITOR="${editor}" exits with 5, changes nothing and keeps the text`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    const { edit, entry } = editing(t, url);
    const before = await entry();
    const { code, stdout, stderr } = await edit(editor);
    assert.deepEqual([code, stdout], [5, ''], stderr);
    assert.match(stderr, message);
    const [, file] = /\nhint: your edits are in (\S+); start again with: vreg edit a\n$/.exec(stderr)!;
    assert.ok(existsSync(file!));
    assert.deepEqual(await entry(), before);
  });
}

for (const [name, script, code] of [
  [
    'a PATCH',
    `curl -sf -X PATCH "$VERS_INFRA_URL/registry/vms/a" -H 'content-type: application/json' -d '{"name":"other"}' >/dev/null`,
    4,
  ],
  ['a DELETE', 'curl -sf -X DELETE "$VERS_INFRA_URL/registry/vms/a" >/dev/null', 3],
] as const) {
  test(`${name} by another client in the meantime is not overwritten, and edit exits with ${code}`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    const { edit, kept } = editing(t, url);
    const editor = join(tempDir(t), 'editor');
    writeFileSync(editor, `#!/bin/sh\n${script}\nsed -i s/running/paused/ "$1"\n`, { mode: 0o755 });
    const result = await edit(editor);
    assert.deepEqual([result.code, result.stdout], [code, ''], result.stderr);
    assert.match(
      result.stderr,
      /^vreg: (.*changed since you read it|VM not found)\nhint: your edits are in \S+; start again/,
    );
    assert.equal(kept().length, 1);
    const { status, body } = await call(url, 'GET', '/registry/vms/a');
    if (name === 'a DELETE') assert.equal(status, 404);
    else assert.deepEqual([(body as { name: string }).name, (body as { status: string }).status], ['other', 'running']);
  });
}

test('a failing editor exits with 5, and leaves neither a change nor a file', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [BEFORE]);
  const { edit, kept } = editing(t, url);
  for (const [editor, end] of [
    ['false', '1'],
    ['no-such-editor 2>/dev/null', '127'],
  ]) {
    const result = await edit(editor!);
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(
      result.stderr,
      new RegExp(
        `vreg: the editor "${editor}" exited with ${end}\nhint: try again, or set VISUAL or EDITOR to another editor\n$`,
      ),
    );
  }
  assert.deepEqual(kept(), []);
});

test('Ctrl-C that ends the editor exits with 130 without a message', unless('python3'), async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [BEFORE]);
  const env = { EDITOR: 'edit() { echo begun; exec sleep 300; }; edit' };
  const terminal = await vregInTerminal(t, ['edit', 'a'], { url, home: tempDir(t), env });
  await terminal.shows('begun');
  terminal.type('\u0003');
  assert.equal(await terminal.ended, 130, terminal.text());
  assert.doesNotMatch(terminal.text(), /vreg:|hint:/);
});

test('the text of an editor that fails after writing is kept', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [BEFORE]);
  const { edit, kept } = editing(t, url);
  const editor = join(tempDir(t), 'editor');
  writeFileSync(editor, '#!/bin/sh\nsed -i s/one/two/ "$1"\nexit 1\n', { mode: 0o755 });
  const { code, stderr } = await edit(editor);
  assert.equal(code, 5);
  const [, file] = /your edits are in (\S+);/.exec(stderr)!;
  assert.match(readFileSync(file!, 'utf8'), /"two"/);
  assert.equal(kept().length, 1);
});

test('edit of an unregistered VM starts no editor and exits with 3', async (t) => {
  const { url } = await serveApp(t);
  const { edit } = editing(t, url);
  assert.deepEqual(await edit('echo ran; true', 'nope'), {
    code: 3,
    stdout: '',
    stderr: 'vreg: nope: VM not found\nhint: list registered VMs: vreg ls\n',
  });
});

test('edit works with the original registry, which has no preconditions', async (t) => {
  const { url, vms } = await startPlainServer(t);
  await seed(url, [BEFORE]);
  const { edit } = editing(t, url);
  assert.deepEqual((await edit('sed -i s/one/two/')).stdout, 'a\n');
  assert.equal(vms.get('a')!.name, 'two');
});
