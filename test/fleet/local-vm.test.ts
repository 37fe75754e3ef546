/** Where the id, the parent and the metadata of this VM come from. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Config } from '../../src/config.ts';
import { findVmId, thisVm, withMetadata } from '../../src/fleet/local-vm.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { serveApp } from '../helpers/app.ts';
import { vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { unless } from '../helpers/tools.ts';

function idFile(t: TestContext, content: unknown): string {
  const path = join(tempDir(t), 'identity.json');
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

function configOf(env: NodeJS.ProcessEnv = {}, flags: Record<string, unknown> = {}): Config {
  const config = new Config({ HOME: '/nonexistent', ...env });
  config.setFlags(flags);
  return config;
}

test('the id comes from the flag, VREG_ID, VERS_VM_ID or the host name; an id file follows the id of the same kind', (t) => {
  const file = idFile(t, { vmId: ' of-file ', agentId: 'x' });
  const cases: readonly [env: NodeJS.ProcessEnv, flags: object, value: string, origin: string][] = [
    [{ VREG_ID: 'v', VREG_ID_FILE: file }, { id: 'f', idFile: file }, 'f', 'flag --id'],
    [{ VREG_ID: 'v' }, { idFile: file }, 'of-file', file],
    [{ VREG_ID: 'v', VREG_ID_FILE: file }, {}, 'v', 'VREG_ID'],
    [{ VREG_ID_FILE: file, VERS_VM_ID: 'vers' }, {}, 'of-file', file],
    [{ VERS_VM_ID: 'vers' }, {}, 'vers', 'VERS_VM_ID'],
    [{}, {}, hostname(), 'the host name'],
  ];
  for (const [env, flags, value, origin] of cases)
    assert.deepEqual(findVmId(configOf(env, { ...flags })), { value, origin });
});

test('an id file in the config file comes after VERS_VM_ID', (t) => {
  const file = idFile(t, { vmId: 'of-file' });
  const XDG_CONFIG_HOME = tempDir(t);
  const run = (env: NodeJS.ProcessEnv) => findVmId(configOf({ XDG_CONFIG_HOME, ...env }));
  return vreg(['config', 'set', 'id-file', file], { env: { XDG_CONFIG_HOME } }).then(({ code }) => {
    assert.equal(code, 0);
    assert.equal(run({}).value, 'of-file');
    assert.equal(run({ VERS_VM_ID: 'vers' }).value, 'vers');
  });
});

for (const [content, message] of [
  [
    '{"vmId": "a",\n}',
    /^the id file .*identity\.json is not a JSON object: unexpected "}" \(line 2, column 1, from VREG_ID_FILE\)$/,
  ],
  ['\ufeff{}', /^the id file .* begins with a byte order mark.* \(line 1, column 1, from VREG_ID_FILE\)$/],
  ['[]', /^the id file .* is not a JSON object \(line 1, column 1, from VREG_ID_FILE\)$/],
  [{}, /^the id file .*identity\.json has no vmId \(from VREG_ID_FILE\)$/],
  [{ vmId: 1 }, /has no vmId \(from VREG_ID_FILE\)$/],
  [{ vmId: ' ' }, /has no vmId \(from VREG_ID_FILE\)$/],
  [{ vmId: 'a', parentVmId: 1 }, /has a parentVmId that is not a string \(from VREG_ID_FILE\)$/],
] as const) {
  test(`an id file that contains ${JSON.stringify(content)} is refused`, (t) => {
    const config = configOf({ VREG_ID_FILE: idFile(t, content) });
    assert.throws(
      () => findVmId(config),
      (error) => error instanceof VregError && error.exit === 5 && message.test(error.message),
    );
  });
}

test('an id file that does not exist is refused', () => {
  assert.throws(() => findVmId(configOf({}, { idFile: '/none' })), {
    message: 'the id file /none does not exist (from flag --id-file)',
  });
});

test('the parent comes from the flag, the id file or REEF_PARENT_VM_ID, and is never the VM itself', (t) => {
  const file = idFile(t, { vmId: 'a', parentVmId: 'of-file' });
  const parent = (env: NodeJS.ProcessEnv, flags: { parent?: string } = {}, id?: string) =>
    thisVm(configOf({ VERS_VM_ID: 'a', ...env }), flags, id).parentId;
  const both = { VREG_ID_FILE: file, REEF_PARENT_VM_ID: 'reef' };
  assert.equal(parent(both, { parent: 'flag' }), 'flag');
  assert.equal(parent(both), 'of-file');
  assert.equal(parent({ ...both, VREG_ID_FILE: idFile(t, { vmId: 'a', parentVmId: null }) }), 'reef');
  assert.equal(parent({ ...both, VREG_ID: 'b' }), 'reef', 'the file describes another VM');
  assert.equal(parent({ REEF_PARENT_VM_ID: 'reef' }), 'reef');
  for (const REEF_PARENT_VM_ID of ['', ' ', 'a']) assert.equal(parent({ REEF_PARENT_VM_ID }), undefined);
  assert.equal(parent(both, {}, 'other'), undefined, 'the environment describes this VM only');
});

test('the error about an invalid parent names the id file or REEF_PARENT_VM_ID', (t) => {
  const file = idFile(t, { vmId: 'a', parentVmId: '-x' });
  const why = 'parentId cannot begin with "-": a command would take it for a flag';
  assert.throws(() => thisVm(configOf({ VREG_ID_FILE: file }), {}), {
    message: `${why} (from ${file})`,
    code: 'INVALID',
  });
  const reef = configOf({ VREG_ID: 'a', REEF_PARENT_VM_ID: '-x' });
  assert.throws(() => thisVm(reef, {}), { message: `${why} (from REEF_PARENT_VM_ID)`, code: 'INVALID' });
  assert.throws(() => thisVm(reef, { parent: '-x' }), { message: why });
});

test('an id file may be a pipe, which is read once until the settings are reloaded', unless('mkfifo'), (t) => {
  const pipe = join(tempDir(t), 'pipe');
  assert.equal(spawnSync('mkfifo', ['-m', '600', pipe]).status, 0);
  const write = (content: object) => {
    // It is opened for both, since opening it for writing alone would wait for a reader.
    const end = openSync(pipe, 'r+');
    const writer = spawn('sh', ['-c', 'sleep 0.3; echo "$0"', JSON.stringify(content)], {
      stdio: ['ignore', end, 'ignore'],
    });
    closeSync(end);
    t.after(() => writer.kill());
  };
  const config = configOf({ VREG_ID_FILE: pipe });
  write({ vmId: 'a', parentVmId: 'root' });
  const { id, parentId } = thisVm(config, {});
  assert.deepEqual([id, parentId], ['a', 'root']);
  config.reload();
  write({ vmId: 'b' });
  assert.equal(thisVm(config, {}).id, 'b');
});

test('VERS_COMMIT_ID becomes metadata of a new entry of this VM, unless a flag sets the key', () => {
  const metadata = (meta?: string[], id?: string) => {
    const config = configOf({ VERS_VM_ID: 'a', VERS_COMMIT_ID: 'c1' });
    return withMetadata(config, thisVm(config, meta ? { meta } : {}, id)).metadata;
  };
  assert.deepEqual(metadata(), { commitId: 'c1' });
  assert.deepEqual(metadata(['task=x']), { commitId: 'c1', task: 'x' });
  assert.deepEqual(metadata(['commitId=own']), { commitId: 'own' });
  assert.equal(metadata(undefined, 'other'), undefined);
});

for (const argv of [
  ['register', '--id-file'],
  ['heartbeat', '--register-if-missing', '--id-file'],
]) {
  test(`vreg ${argv.join(' ')} registers the VM of the file with its parent and commit`, async (t) => {
    const { url } = await serveApp(t);
    const file = idFile(t, { vmId: 'child', parentVmId: 'root' });
    const { code, stderr } = await vreg([...argv, file], { url, env: { VERS_VM_ID: 'builder', VERS_COMMIT_ID: 'c1' } });
    assert.deepEqual([code, stderr], [0, '']);
    const { body } = await call(url, 'GET', '/registry/vms/child');
    const { parentId, metadata } = body as { parentId: string; metadata: object };
    assert.deepEqual([parentId, metadata], ['root', { commitId: 'c1' }]);
  });
}
