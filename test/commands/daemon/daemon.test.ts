import assert from 'node:assert/strict';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../../helpers/app.ts';
import { vreg } from '../../helpers/cli.ts';
import { cleanEnv, ENTRY, PROGRAM, type Ran, run, tempDir } from '../../helpers/daemon.ts';

interface Process {
  kind: string;
  pid: number;
  urls: string[];
  vm?: string;
}

/** The built program with its own home; its background processes are stopped when the test ends. */
function program(t: TestContext, more: NodeJS.ProcessEnv = {}): { home: string; told(argv: string): Promise<Ran> } {
  const home = tempDir(t);
  const env = cleanEnv(home, { VREG_DATA_DIR: join(home, 'data'), ...more });
  const told = (argv: string) => run(PROGRAM, [...ENTRY, ...argv.split(' ')], { env });
  t.after(() => told('daemon stop'));
  return { home, told };
}

test('status and stop exit with 3 if nothing runs, with a hint to start', async (t) => {
  const dir = tempDir(t);
  for (const argv of ['daemon status', 'daemon stop', 'daemon stop serve', 'daemon stop agent']) {
    const { code, stdout, stderr } = await vreg([...argv.split(' '), '--data-dir', dir]);
    assert.deepEqual([code, stdout], [3, ''], argv);
    assert.match(stderr, /^vreg: no vreg .* is using the data dir .*\nhint: start one: vreg daemon .*--detach/, argv);
  }
});

test('invalid settings are refused before anything starts', async (t) => {
  // The registry sets the umask of its process, which is this one.
  const umask = process.umask();
  t.after(() => process.umask(umask));
  const dir = tempDir(t);
  const refused: readonly [argv: string, message: RegExp][] = [
    ['daemon foo', /^vreg: unknown command: daemon foo\nhint: list the commands: vreg daemon --help\n$/],
    ['daemon stop foo', /^vreg: invalid argument "foo"\nhint: one of: serve, agent\n$/],
    ['daemon logs foo', /^vreg: invalid argument "foo"\nhint: one of: serve, agent\n$/],
    ['daemon --port 99999', /^vreg: invalid port "99999" \(from flag --port\)\nhint: /],
    ['daemon --log-level loud', /^vreg: invalid log-level "loud" \(from flag --log-level\)\nhint: one of: debug, /],
    ['daemon --stale-after never', /^vreg: invalid stale-after "never".*\nhint: /],
    ['daemon --host 0.0.0.0', /^vreg: refusing to listen on 0\.0\.0\.0 without a token: .*\nhint: set VERS_AUTH_TOKEN/],
    ['daemon agent --on-exit explode', /^vreg: invalid on-exit "explode" \(from flag --on-exit\)\nhint: one of: /],
    ['daemon agent --check-fall 0', /^vreg: invalid --check-fall "0"\nhint: use a whole number from 1 to 999\n$/],
    ['daemon agent --check-interval 5s', /^vreg: --check-interval requires --check\nhint: pass --check/],
    ['daemon agent --service x', /^vreg: invalid --service "x"/],
  ];
  for (const [argv, message] of refused) {
    const { code, stdout, stderr } = await vreg(argv.split(' '), { env: { VREG_DATA_DIR: join(dir, 'data') } });
    assert.deepEqual([code, stdout], [5, ''], argv);
    assert.match(stderr, message, argv);
  }
});

test('--detach runs the registry in the background, where status finds it and stop ends it', async (t) => {
  const { home, told } = program(t);
  const started = await told('daemon --port 0 --detach --json');
  assert.equal(started.code, 0, started.stderr);
  const [info] = JSON.parse(started.stdout) as Process[];
  assert.equal(info!.kind, 'serve');
  const log = join(home, 'data/daemon.log');
  assert.equal(started.stderr, `vreg: running in the background; log: ${log}\n`);
  assert.equal(statSync(log).mode & 0o777, 0o600);

  const health = await told(`health --url ${info!.urls[0]}`);
  assert.equal(health.stdout, 'ok\n');
  assert.deepEqual(JSON.parse((await told('daemon status --json')).stdout), [info]);
  assert.equal((await told('daemon status -q')).stdout, `${info!.pid}\n`);
  assert.match((await told('daemon status')).stdout, /^KIND\tPID\tSINCE\tURL\tVM\nserve\t\d+\t.*\thttp:.*\t-\n$/);

  const second = await told('daemon --port 0 --detach');
  assert.deepEqual([second.code, second.stdout], [4, '']);
  assert.match(
    second.stderr,
    new RegExp(`^vreg: another process is using the data dir .*pid ${info!.pid}.*\\nhint: stop it`),
  );

  assert.equal((await told('daemon stop -q')).stdout, `${info!.pid}\n`);
  assert.equal((await told(`health --url ${info!.urls[0]}`)).code, 8);
  assert.equal((await told('daemon status')).code, 3);
  assert.equal(existsSync(join(home, 'data/daemon.json')), false);
});

test('--detach runs the agent in the background, and stop declares its VM stopped', async (t) => {
  const { url, store } = await serveApp(t);
  const { told } = program(t, { VERS_INFRA_URL: url });
  const started = await told('daemon agent --id vm-7 --detach --json');
  assert.equal(started.code, 0, started.stderr);
  const [info] = JSON.parse(started.stdout) as Process[];
  assert.deepEqual([info!.kind, info!.vm, info!.urls], ['agent', 'vm-7', [url]]);
  const status = () => (JSON.parse(store.vms.get('vm-7')!.body) as { status: string }).status;
  assert.equal(status(), 'running');
  assert.equal((await told('daemon stop serve')).code, 3);
  assert.equal((await told('daemon stop agent')).code, 0);
  assert.equal(status(), 'stopped');
});

test('--detach reports a failed start with its exit code and message', async (t) => {
  const { told } = program(t);
  const { code, stdout, stderr } = await told('daemon --host 0.0.0.0 --port 0 --detach');
  assert.deepEqual([code, stdout], [5, '']);
  assert.match(stderr, /^vreg: refusing to listen on 0\.0\.0\.0 without a token/);
});

test('daemon logs prints an absolute path, also for a relative data dir', async (t) => {
  const dir = tempDir(t);
  writeFileSync(join(dir, 'daemon.log'), '');
  const { stdout } = await vreg(['daemon', 'logs', '--data-dir', relative(process.cwd(), dir)]);
  assert.equal(stdout, `${join(dir, 'daemon.log')}\n`);
});
