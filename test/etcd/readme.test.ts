/** The recipe in the README of the store runs verbatim, on other ports and in another home folder. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { BIN, cleanEnv, endAfter, run, tempDir } from '../helpers/daemon.ts';
import { freePorts, unlessEtcd } from '../helpers/etcd.ts';
import { blocks, readReadme, section } from '../helpers/readme.ts';

/** Ports of the members, their peers and the replicas. */
const PORTS = ['21379', '22379', '23379', '21380', '22380', '23380', '3001', '3002', '3003'];

test('the recipe of three members and three replicas runs verbatim', {
  ...unlessEtcd(),
  timeout: 300_000,
}, async (t) => {
  const home = tempDir(t);
  const bin = join(home, 'bin');
  mkdirSync(bin);
  symlinkSync(BIN, join(bin, 'vreg'));
  const folder = join(home, 'vreg-ha');
  endAfter(t, async () => {
    for (const name of ['m1', 'm2', 'm3', 'r1', 'r2', 'r3']) kill(join(folder, `${name}.pid`));
  });
  const free = await freePorts(PORTS.length);
  const commands = blocks(section(readReadme('daemon/store/etcd/README.md'), '## Try it on one machine'), 'sh');
  const written = commands.join('');
  // Written out, because free ports do not follow a pattern.
  const loops = written
    .replaceAll(/2\$\{n\}(379|380)/g, (_, port) => `$(port 2\${n}${port})`)
    .replaceAll('300$n', '$(port 300$n)');
  // In one pass, because a free port such as 30033 may itself contain one of the ports.
  const script = loops.replaceAll(new RegExp(PORTS.join('|'), 'g'), (port) => String(free[PORTS.indexOf(port)]));
  const cases = PORTS.map((port, n) => `${port}) echo ${free[n]};;`).join(' ');
  const { code, stdout, stderr } = await run(
    'bash',
    ['-euo', 'pipefail', '-c', `port() { case $1 in ${cases} esac; }\n${script}`],
    { env: cleanEnv(home, { PATH: `${bin}:${process.env.PATH}` }), cwd: home },
  );
  assert.equal(code, 0, `${stdout}${stderr}`);
  assert.equal(stdout.match(/^10\.0\.0\.1$/gm)?.length, 3, stdout);
  assert.equal(existsSync(folder), false);
  const [summary, acknowledged] = /^(\d+) of 60 registrations were acknowledged$/m.exec(stdout) ?? [];
  assert.ok(Number(acknowledged) > 0, stdout);
  t.diagnostic(summary!);
  assert.doesNotMatch(stdout, /^vm-\d+$/m, 'no acknowledged VM is missing');
});

function kill(pidFile: string): void {
  if (!existsSync(pidFile)) return;
  try {
    process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
