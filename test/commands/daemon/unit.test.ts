/** `vreg daemon unit`, `install` and `uninstall`, checked with the real systemd-analyze and systemctl. */
import assert from 'node:assert/strict';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { whyUnreadable } from '../../../daemon/systemd/install.ts';
import { UNIT_KINDS } from '../../../daemon/systemd/units.ts';
import { vreg } from '../../helpers/cli.ts';
import { cleanEnv, ENTRY, PROGRAM, type Ran, run, runInProcess, tempDir, VREG } from '../../helpers/daemon.ts';
import { ROOT } from '../../helpers/readme.ts';
import { unless } from '../../helpers/tools.ts';

const FILES = {
  serve: ['vreg-serve.service'],
  agent: ['vreg-agent.service'],
  'heartbeat-timer': ['vreg-heartbeat.service', 'vreg-heartbeat.timer'],
  'wait-online': ['vreg-online.target', 'vreg-wait-online.service'],
} as const;
/** Highest exposure that systemd-analyze may report, in tenths. */
const MOST_EXPOSURE = 20;

test('a SIGHUP before the program handles it restarts the daemon and the agent', async () => {
  for (const kind of ['serve', 'agent']) {
    const { stdout } = await vreg(['daemon', 'unit', kind]);
    assert.match(stdout, /^RestartForceExitStatus=SIGHUP$/m, kind);
  }
});

interface Home {
  home: string;
  /** Runs a command in this process. */
  vreg(...args: readonly string[]): Promise<Ran>;
  /** Runs the real program, whose path is in its units, and whose PATH contains `systemctl`. */
  program(...args: readonly string[]): Promise<Ran>;
}

function aHome(t: TestContext, env: NodeJS.ProcessEnv = {}): Home {
  const home = tempDir(t);
  return {
    home,
    vreg: (...args) => runInProcess(args, { env: cleanEnv(home, env) }),
    program: (...args) => run(PROGRAM, [...ENTRY, ...args], { env: cleanEnv(home, env) }),
  };
}

/** A `systemctl` that records its arguments. */
function fakeSystemctl(t: TestContext, exit = 0): { PATH: string; asked(): string[] } {
  const dir = tempDir(t);
  const notes = join(dir, 'asked');
  writeFileSync(join(dir, 'systemctl'), `#!/bin/sh\necho "$*" >> ${notes}\necho no bus >&2\nexit ${exit}\n`);
  chmodSync(join(dir, 'systemctl'), 0o755);
  const asked = () => (existsSync(notes) ? readFileSync(notes, 'utf8').trim().split('\n') : []);
  return { PATH: `${dir}:${process.env.PATH}`, asked };
}

test('the unit of the registry retries every 30 s while its port is in use, without reaching the start limit', async (t) => {
  const { home, vreg } = aHome(t);
  const unit = (await vreg('daemon', 'unit', 'serve')).stdout;
  const numberOf = (key: string) => Number(new RegExp(`^${key}=(\\d+)$`, 'm').exec(unit)![1]);
  const [, script] = /^ExecStopPost=\/bin\/sh -c '(.*)'$/m.exec(unit)!;
  writeFileSync(join(home, 'sleep'), '#!/bin/sh\necho "$1"\n', { mode: 0o755 });
  // systemd replaces $$ with $.
  const delayAfter = async (EXIT_STATUS: string) => {
    const env = { PATH: `${home}:${process.env.PATH}`, EXIT_STATUS };
    const { code, stdout } = await run('/bin/sh', ['-c', script!.replaceAll('$$', '$')], { env });
    assert.equal(code, 0);
    return numberOf('RestartSec') + Number(stdout);
  };
  assert.deepEqual([await delayAfter('4'), await delayAfter('1'), await delayAfter('KILL')], [30, 2, 2]);
  assert.ok(30 * numberOf('StartLimitBurst') > numberOf('StartLimitIntervalSec'));
  assert.ok(28 < numberOf('TimeoutStopSec'));
});

for (const kind of UNIT_KINDS) {
  for (const words of [[], ['--user'], ['--no-token'], ['--tls'], ['--', '--timeout', '20s']]) {
    const what = ['vreg daemon unit', kind, ...words].join(' ');
    test(`systemd accepts the units of ${what}`, unless('systemd-analyze'), async (t) => {
      const { home, vreg } = aHome(t);
      const { code, stdout, stderr } = await vreg('daemon', 'unit', kind, '--output-dir', home, ...words);
      assert.equal(code, 0, stderr);
      assert.deepEqual(stdout.trim().split('\n').sort(), FILES[kind]);
      const manager = words.includes('--user') ? ['--user'] : [];
      const env = cleanEnv(home, { XDG_RUNTIME_DIR: home });
      for (const file of FILES[kind]) {
        const verify = ['verify', '--man=no', '--recursive-errors=no', join(home, file)];
        const verified = await run('systemd-analyze', [...manager, ...verify], { env });
        // systemd only warns of a misspelt option.
        assert.deepEqual([verified.code, verified.stdout + verified.stderr], [0, ''], file);
        if (!file.endsWith('.service') || manager.length > 0) continue;
        const judge = ['security', '--offline=yes', '--no-pager', `--threshold=${MOST_EXPOSURE}`, join(home, file)];
        const judged = await run('systemd-analyze', judge, { env });
        assert.equal(judged.code, 0, judged.stdout.trim().split('\n').at(-1));
      }
    });
  }
}

test('a unit runs this program with the arguments after -- unchanged', async (t) => {
  const { program } = aHome(t);
  const args = ['--role', 'lieutenant', '--meta', 'note=50% of $HOME "quoted" \\'];
  const { stdout } = await program('daemon', 'unit', 'agent', '--', ...args);
  const start = `${VREG.join(' ')} daemon agent`;
  assert.ok(
    stdout.includes(`\nExecStart=${start} --role lieutenant --meta "note=50%% of $$HOME \\"quoted\\" \\\\"\n`),
    stdout,
  );
});

test('a unit loads the certificate under the credential name that the command reads', async (t) => {
  const { vreg } = aHome(t);
  for (const [kind, cert, key] of [
    ['serve', 'tls-cert', 'tls-key'],
    ['agent', 'cert-file', 'key-file'],
  ] as const) {
    const { stdout } = await vreg('daemon', 'unit', kind, '--tls');
    assert.ok(
      stdout.includes(`\nLoadCredential=${cert}:%E/vreg/tls.crt\nLoadCredential=${key}:%E/vreg/tls.key\n`),
      kind,
    );
    assert.doesNotMatch((await vreg('daemon', 'unit', kind)).stdout, /tls\.crt/);
  }
  const { stdout } = await vreg(
    'daemon',
    'unit',
    'serve',
    '--',
    '--trust-proxy',
    '--port',
    '3001',
    '--tls-cert',
    '/a b',
  );
  assert.match(stdout, /^ExecStart=.* daemon serve --trust-proxy --port 3001 --tls-cert "\/a b"$/m);
});

test('a unit is refused if the agent would refuse its address', async (t) => {
  const { vreg } = aHome(t);
  const { code, stdout, stderr } = await vreg('daemon', 'unit', 'agent', '--', '--address', 'a b; reboot');
  assert.deepEqual([code, stdout], [5, '']);
  assert.match(stderr, /^vreg: invalid address "a b; reboot"\nhint: use a host name, an IPv4 or an IPv6 address/);
});

test('install refuses a unit whose certificate does not exist', async (t) => {
  const { vreg } = aHome(t);
  const { code, stderr } = await vreg('daemon', 'install', 'agent', '--user', '--no-token', '--tls', '--dry-run');
  assert.equal(code, 5);
  assert.match(stderr, /^vreg: the unit would not start: .*vreg\/tls\.crt does not exist\nhint: /);
});

test('a single unit is printed without a heading, several with headings, and JSON contains all', async (t) => {
  const { vreg } = aHome(t);
  assert.match((await vreg('daemon', 'unit', 'serve')).stdout, /^\[Unit\]\n/);
  const { stdout } = await vreg('daemon', 'unit', 'heartbeat-timer');
  assert.match(
    stdout,
    /^# vreg-heartbeat\.service\n\[Unit\]\n[\s\S]*\n\n# vreg-heartbeat\.timer\n\[Unit\]\n[\s\S]*OnClockChange=yes\n/,
  );
  const files = JSON.parse((await vreg('daemon', 'unit', 'wait-online', '--json')).stdout) as { name: string }[];
  assert.deepEqual(files.map(({ name }) => name).sort(), FILES['wait-online']);
});

test('arguments that a unit could not run are refused when the unit is made', async (t) => {
  const { vreg } = aHome(t);
  const refused: readonly [words: readonly string[], message: RegExp][] = [
    [['agnt'], /^vreg: unknown unit kind "agnt"; did you mean "agent"\?\nhint: one of: serve, agent, /],
    [
      ['agent', '--', '--rol', 'x'],
      /^vreg: "--rol" is not a flag of vreg daemon agent; did you mean "--role"\?\nhint: /,
    ],
    [['agent', '--', '--role', 'boss'], /^vreg: invalid role "boss"/],
    [['agent', '--', '--role'], /^vreg: "--role" needs a value\nhint: /],
    [['serve', '--', '--trust-proxy', 'here'], /^vreg: invalid trust-proxy "here"\nhint: /],
    [['agent', '--', 'worker'], /^vreg: "worker" is not a flag of vreg daemon agent\nhint: /],
    [['agent', 'worker'], /^vreg: unexpected argument "worker"\nhint: .*vreg daemon unit agent -- worker/],
    [['serve', '--', '--detach'], /^vreg: a unit cannot use --detach: /],
    [['agent', '--', '--name', 'a\nUser=root'], /^vreg: "a.User=root" contains a control character/],
  ];
  for (const [words, message] of refused) {
    const { code, stdout, stderr } = await vreg('daemon', 'unit', ...words);
    assert.deepEqual([code, stdout], [5, ''], words.join(' '));
    assert.match(stderr, message);
  }
});

test('install --user writes the unit and reloads systemd, and a repetition changes nothing', async (t) => {
  const systemctl = fakeSystemctl(t);
  const { home, program: vreg } = aHome(t, { PATH: systemctl.PATH });
  const install = ['daemon', 'install', 'agent', '--user', '--no-token', '--now'];
  const file = join(home, 'config/systemd/user/vreg-agent.service');
  const steps = [
    'run\tsystemctl --user daemon-reload',
    'run\tsystemctl --user enable vreg-agent.service',
    'run\tsystemctl --user start vreg-agent.service',
  ];
  const table = (...rows: string[]) => `ACTION\tWHAT\n${rows.join('\n')}\n`;

  const dry = await vreg(...install, '--dry-run');
  assert.deepEqual([dry.code, dry.stdout], [0, table(`write\t${file}`, ...steps)]);
  const unasked = await vreg(...install);
  assert.deepEqual([unasked.code, unasked.stdout], [7, '']);
  assert.equal(existsSync(file), false);
  assert.deepEqual(systemctl.asked(), []);

  const done = await vreg(...install, '--yes');
  assert.deepEqual([done.code, done.stdout], [0, dry.stdout]);
  assert.match(done.stderr, /^vreg: see its status: systemctl --user status vreg-agent\.service\n$/);
  assert.deepEqual(
    systemctl.asked(),
    steps.map((step) => step.replace('run\tsystemctl ', '')),
  );
  assert.equal(readFileSync(file, 'utf8'), (await vreg('daemon', 'unit', 'agent', '--user', '--no-token')).stdout);
  assert.deepEqual(readdirSync(dirname(file)), ['vreg-agent.service']);

  assert.equal((await vreg(...install, '--yes')).stdout, table(`keep\t${file}`, ...steps));
  const other = await vreg(...install, '--yes', '--', '--role', 'infra');
  assert.equal(other.stdout, table(`replace\t${file}`, ...steps).replace(' start ', ' restart '));
  assert.match(readFileSync(file, 'utf8'), /daemon agent --role infra\n/);
});

test('uninstall undoes an installation, and exits with 3 without a unit', async (t) => {
  const systemctl = fakeSystemctl(t);
  const { home, program: vreg } = aHome(t, { PATH: systemctl.PATH });
  await vreg('daemon', 'install', 'heartbeat-timer', '--user', '--no-token', '--yes');
  const { code, stdout } = await vreg('daemon', 'uninstall', 'heartbeat-timer', '--user', '--yes');
  assert.equal(code, 0);
  assert.match(stdout, /stop vreg-heartbeat\.timer\n.*disable vreg-heartbeat\.timer\nremove[\s\S]*daemon-reload\n$/);
  assert.deepEqual(readdirSync(join(home, 'config/systemd/user')), []);
  const again = await vreg('daemon', 'uninstall', 'heartbeat-timer', '--user', '--yes');
  assert.equal(again.code, 3);
  assert.match(again.stderr, /^vreg: there is no vreg-heartbeat\.service in .*\nhint: /);
});

test('a failing or missing systemctl is reported', async (t) => {
  const install = ['daemon', 'install', 'agent', '--user', '--no-token', '--yes'];
  const failing = await aHome(t, { PATH: fakeSystemctl(t, 1).PATH }).program(...install);
  assert.equal(failing.code, 1);
  assert.match(failing.stderr, /^vreg: systemctl --user daemon-reload failed: no bus\nhint: is systemd running\?/);
  const missing = await aHome(t, { PATH: tempDir(t) }).program(...install);
  assert.match(missing.stderr, /^vreg: systemctl --user daemon-reload failed: ENOENT\nhint: /);
});

test('install requires the token file that its unit loads, or --no-token', async (t) => {
  const { home, vreg } = aHome(t);
  const dry = ['daemon', 'install', 'agent', '--user', '--dry-run'];
  const without = await vreg(...dry);
  assert.equal(without.code, 5);
  assert.match(
    without.stderr,
    /^vreg: the unit would not start: .*config\/vreg\/token does not exist\nhint: .*--no-token/,
  );
  mkdirSync(join(home, 'config/vreg'), { recursive: true });
  writeFileSync(join(home, 'config/vreg/token'), 's3cret\n', { mode: 0o600 });
  assert.equal((await vreg(...dry)).code, 0);
});

test('install refuses a token and a key that others can read', async (t) => {
  const { home, vreg } = aHome(t);
  const dir = join(home, 'config/vreg');
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, 'token'), 's3cret\n', { mode: 0o644 });
  for (const name of ['tls.crt', 'tls.key']) writeFileSync(join(dir, name), '', { mode: 0o640 });
  const dry = ['daemon', 'install', 'serve', '--user', '--dry-run', '--tls'];
  const loose = await vreg(...dry);
  assert.equal(loose.code, 5);
  assert.match(
    loose.stderr,
    /^vreg: the token file (.*\/token) can be read by other users \(mode 0644\)\nhint: chmod 600 \1\n$/,
  );
  chmodSync(join(dir, 'token'), 0o600);
  assert.match(
    (await vreg(...dry)).stderr,
    /^vreg: the private key .*\/tls\.key can be read by other users \(mode 0640\)/,
  );
  chmodSync(join(dir, 'tls.key'), 0o600);
  assert.equal((await vreg(...dry)).code, 0);
});

test(
  '--root installs the units into an image, where the real systemctl enables them',
  unless('systemctl'),
  async (t) => {
    const { home, program } = aHome(t);
    const root = join(home, 'image');
    const ran = await program('daemon', 'install', 'serve', '--root', root, '--no-token', '--yes');
    const closed = VREG.map(whyUnreadable).find((reason) => reason !== undefined);
    if (closed) {
      // Hardened units cannot read the folder of this checkout.
      assert.deepEqual([ran.code, ran.stdout], [5, '']);
      assert.ok(ran.stderr.includes(closed));
      return;
    }
    assert.equal(ran.code, 0, ran.stderr);
    const system = join(root, 'etc/systemd/system');
    assert.deepEqual(readdirSync(system).sort(), ['multi-user.target.wants', 'vreg-serve.service']);
    assert.deepEqual(readdirSync(join(system, 'multi-user.target.wants')), ['vreg-serve.service']);
    assert.equal((await program('daemon', 'install', 'serve', '--root', root, '--no-token', '--now', '--yes')).code, 5);
    assert.equal((await program('daemon', 'uninstall', 'serve', '--root', root, '--yes')).code, 0);
    assert.equal(existsSync(join(system, 'vreg-serve.service')), false);
  },
);

test('install refuses a program that hardened units cannot read, and unit warns about it', async (t) => {
  const { home } = aHome(t);
  // tempDir is in /tmp, which PrivateTmp hides from units.
  for (const part of ['bin', 'dist', 'package.json']) cpSync(join(ROOT, part), join(home, part), { recursive: true });
  symlinkSync(join(ROOT, 'node_modules'), join(home, 'node_modules'));
  const vreg = (...args: string[]) =>
    run(process.execPath, [join(home, 'bin/vreg.js'), ...args], { env: cleanEnv(home) });
  const installed = await vreg('daemon', 'install', 'serve', '--root', home, '--no-token', '--yes');
  assert.deepEqual([installed.code, installed.stdout], [5, '']);
  assert.match(installed.stderr, /^vreg: the unit could not start vreg: .*\nhint: install Node and vreg for all users/);
  assert.equal(existsSync(join(home, 'etc')), false);
  assert.match((await vreg('daemon', 'unit', 'serve')).stderr, /: this unit will not start\n$/);
  assert.equal((await vreg('daemon', 'unit', 'serve', '--user')).stderr, '');
});

test('only root can install system units', async (t) => {
  t.mock.method(process as { geteuid: () => number }, 'geteuid', () => 1000);
  for (const word of ['install', 'uninstall']) {
    const { code, stdout, stderr } = await vreg(['daemon', word, 'serve', '--yes']);
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(
      stderr,
      new RegExp(`^vreg: only root may change .*\\nhint: sudo vreg daemon ${word} serve --yes, or pass --user`),
    );
  }
});
