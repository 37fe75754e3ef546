import assert from 'node:assert/strict';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { type Result, seed, start, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { runVreg, startVreg } from '../helpers/running.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

async function registry(t: TestContext): Promise<string> {
  const { url } = await serveApp(t);
  await seed(url, [
    aVm({ id: 'i', name: 'main', role: 'infra', address: '10.0.0.1', services: [{ name: 'api', port: 81 }] }),
    aVm({ id: 'j', name: 'second', role: 'infra', address: '10.0.0.2', services: [{ name: 'ui', port: 82 }] }),
  ]);
  return url;
}

/** A script that writes the variables of the VM to the file $OUT. */
const PRINT = 'echo "$VREG_VM_ID $VREG_VM_NAME $VREG_VM_ROLE $VREG_VM_ADDRESS $VREG_VM_URL" >>"$OUT"';

/** Runs `vreg exec` with a file for the output of the command, which inherits stdout. */
async function exec(t: TestContext, url: string, argv: readonly string[]): Promise<Result & { output: string }> {
  const OUT = join(tempDir(t), 'out');
  const result = await vreg(['exec', ...argv], { url, env: { OUT, MINE: 'mine' } });
  return { ...result, output: existsSync(OUT) ? readFileSync(OUT, 'utf8') : '' };
}

test('the environment of the command has the variables of one live VM in addition to its own', async (t) => {
  const url = await registry(t);
  assert.deepEqual(await exec(t, url, ['infra', '--', 'sh', '-c', `${PRINT}; echo "$MINE" >>"$OUT"`]), {
    code: 0,
    stdout: '',
    stderr: '',
    output: 'i main infra 10.0.0.1 http://10.0.0.1:81\nmine\n',
  });
});

test('the command also gets variables whose names no shell can pass on', async (t) => {
  const url = await registry(t);
  const OUT = join(tempDir(t), 'out');
  const script = 'fs.writeFileSync(process.env.OUT, process.env["my.setting"])';
  const env = { OUT, 'my.setting': 'mine' };
  assert.equal((await vreg(['exec', 'infra', '--', process.execPath, '-e', script], { url, env })).code, 0);
  assert.equal(readFileSync(OUT, 'utf8'), 'mine');
});

test('the command does not inherit the descriptor through which vreg starts it', async (t) => {
  const url = await registry(t);
  const script = '(: <&3) 2>/dev/null && echo open || echo closed';
  assert.equal((await runVreg(['exec', 'infra', '--', 'sh', '-c', script], { url })).stdout, 'closed\n');
});

test('--pick and --service choose the VM and the port of its URL', async (t) => {
  const url = await registry(t);
  const newest = await exec(t, url, ['infra', '--pick', 'newest', '--', 'sh', '-c', PRINT]);
  assert.match(newest.output, /^j second .* http:\/\/10\.0\.0\.2:82\n$/);
  const secure = await exec(t, url, ['infra', '--scheme', 'https', '--', 'sh', '-c', PRINT]);
  assert.match(secure.output, / https:\/\/10\.0\.0\.1:81\n$/);
  const service = await exec(t, url, ['infra', '--service', 'api', '--', 'sh', '-c', PRINT]);
  assert.match(service.output, / http:\/\/10\.0\.0\.1:81\n$/);
});

test('VREG_VM_URL is not set, with a warning, if the VM has no port, even if it was set before', async (t) => {
  const url = await registry(t);
  await seed(url, [aVm({ id: 'w' })]);
  const OUT = join(tempDir(t), 'out');
  const script = 'env | grep -c ^VREG_VM_URL= >"$OUT"; test -n "$VREG_VM_ADDRESS"';
  const env = { OUT, VREG_VM_URL: 'http://outer:1' };
  assert.deepEqual(await vreg(['exec', 'worker', '--', 'sh', '-c', script], { url, env }), {
    code: 0,
    stdout: '',
    stderr: 'vreg: VREG_VM_URL is not set: VM "w" has no port: it is registered without services\n',
  });
  assert.equal(readFileSync(OUT, 'utf8'), '0\n');
});

test('exec --service exits with 5 if the protocol of the service cannot be used', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ services: [{ name: 'api', port: 81, protocol: 'a b' }] })]);
  const { code, output } = await exec(t, url, ['worker', '--service', 'api', '--', 'sh', '-c', PRINT]);
  assert.deepEqual([code, output], [5, '']);
});

test('arguments reach the command unchanged, even if they look like flags of vreg', async (t) => {
  const url = await registry(t);
  const words = ['-q', '--json', '--help', '-c', 'a b', '--', '$HOME', ''];
  const { output } = await exec(t, url, ['infra', '--', 'sh', '-c', 'printf "<%s>" "$@" >"$OUT"', 'sh', ...words]);
  assert.equal(output, words.map((word) => `<${word}>`).join(''));
});

test('the command of the real program inherits stdin and stdout', async (t) => {
  const url = await registry(t);
  assert.deepEqual(await runVreg(['exec', 'infra', '--', 'cat'], { url, input: 'typed\n' }), {
    code: 0,
    signal: null,
    stdout: 'typed\n',
    stderr: '',
  });
});

for (const code of [0, 1, 7, 255]) {
  test(`exec exits with ${code} if the command does, and prints nothing`, async (t) => {
    const url = await registry(t);
    assert.deepEqual(await vreg(['exec', 'infra', '--', 'sh', '-c', `exit ${code}`], { url }), {
      code,
      stdout: '',
      stderr: '',
    });
  });
}

test('exec exits with 128 plus the number of the signal that ended the command', async (t) => {
  const url = await registry(t);
  assert.equal((await vreg(['exec', 'infra', '--', 'sh', '-c', 'kill -TERM $$'], { url })).code, 143);
  assert.equal((await vreg(['exec', 'infra', '--', 'sh', '-c', 'kill -KILL $$'], { url })).code, 137);
});

test('exec exits with 127 if the command does not exist and 126 if it cannot be executed', async (t) => {
  const url = await registry(t);
  const file = join(tempDir(t), 'plain');
  writeFileSync(file, 'no program');
  chmodSync(file, 0o644);
  assert.deepEqual(await vreg(['exec', 'infra', '--', 'no-such-command'], { url }), {
    code: 127,
    stdout: '',
    stderr: 'vreg: cannot run no-such-command: ENOENT\n',
  });
  const result = await vreg(['exec', 'infra', '--', file], { url });
  assert.deepEqual([result.code, result.stderr], [126, `vreg: cannot run ${file}: EACCES\n`]);
});

for (const [signal, name] of [
  ['SIGTERM', 'TERM'],
  ['SIGINT', 'INT'],
  ['SIGHUP', 'HUP'],
] as const) {
  test(`${signal} is forwarded, and the exit code is that of the command`, async (t) => {
    const url = await registry(t);
    const script = `trap 'echo ${name}; exit 9' ${name}; echo on; while :; do sleep 0.05; done`;
    const running = startVreg(t, ['exec', 'infra', '--', 'sh', '-c', script], { url });
    await until('the command', () => running.stdout() === 'on\n');
    assert.deepEqual(await running.end(signal), { code: 9, signal: null });
    assert.equal(running.stdout(), `on\n${name}\n`);
  });
}

test('a second signal is forwarded as well', async (t) => {
  const url = await registry(t);
  const script = 'n=0; trap \'n=$((n+1)); echo "$n"\' INT; echo on; while [ $n -lt 2 ]; do sleep 0.05; done; exit 4';
  const running = startVreg(t, ['exec', 'infra', '--', 'sh', '-c', script], { url });
  await until('the command', () => running.stdout() === 'on\n');
  running.child.kill('SIGINT');
  await until('the first', () => running.stdout() === 'on\n1\n');
  assert.deepEqual(await running.end('SIGINT'), { code: 4, signal: null });
});

test('without a live VM the command does not run and exec exits with 3', async (t) => {
  const url = await registry(t);
  assert.deepEqual(await exec(t, url, ['golden', '--', 'sh', '-c', PRINT]), {
    code: 3,
    stdout: '',
    stderr: 'vreg: no live golden VM (none registered)\nhint: list registered VMs: vreg ls --role golden\n',
    output: '',
  });
});

test('--wait waits for a live VM before it runs the command', async (t) => {
  const url = await registry(t);
  const OUT = join(tempDir(t), 'out');
  const argv = ['exec', 'worker', '--wait', '30s', '-v', '--', 'sh', '-c', PRINT];
  const running = start(argv, { url, env: { OUT }, now: Date.now });
  await until('the first look', () => running.stderr().includes('200'));
  await seed(url, [aVm({ id: 'w' })]);
  assert.equal((await running.result).code, 0);
  assert.match(readFileSync(OUT, 'utf8'), /^w /);
});

const REFUSED: readonly [argv: string, message: RegExp][] = [
  ['exec infra', /^vreg: .*\nhint: .+\n$/],
  ['exec infra --', /^vreg: .*\nhint: .+\n$/],
  ['exec infra env', /^vreg: unexpected argument "env"\nhint: put -- before the command: vreg exec infra -- env\n$/],
  ['exec infra x -- env', /^vreg: unexpected argument "x"\nhint: put -- before the command: vreg exec infra -- env\n$/],
  ['exec -- env', /^vreg: .*\nhint: .+\n$/],
  ['exec infar -- env', /^vreg: invalid role "infar"; did you mean "infra"\?\nhint: one of: /],
];

for (const [argv, message] of REFUSED) {
  test(`vreg ${argv} exits with 5 and shows the correct form`, async () => {
    const result = await vreg(argv.split(' '));
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
  });
}

test('exec works with the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'i', role: 'infra', address: '10.0.0.1' })]);
  const { output } = await exec(t, url, ['infra', '--', 'sh', '-c', PRINT]);
  assert.match(output, /^i one infra 10\.0\.0\.1 /);
});
