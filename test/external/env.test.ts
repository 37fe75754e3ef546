/** The output of `vreg env` in real shells. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import test, { after } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { run, tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { runScript } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'i', role: 'infra', address: '10.0.0.1' }),
  aVm({ id: 'v', address: '10.0.0.2' }),
  aVm({ id: 'w', address: '10.0.0.3' }),
  aVm({ id: 'p', role: 'golden', status: 'paused' }),
];

const { url } = await serveApp({ after });
await seed(url, FLEET);

/** Texts that a shell would expand or execute without quotes. None is an address; most may be ids. */
const HOSTILE = [
  "a'; touch X; '",
  'a"; touch X; "',
  '$(touch X)',
  '`touch X`',
  'a\\; touch X',
  "\\'; touch X; #",
  'a; touch X',
  '* ~ $HOME (touch X)',
  "'",
  '\\',
];

for (const [shell, flag] of [
  ['dash', '--export'],
  ['bash', '--export'],
  ['zsh', '--export'],
  ['fish', '--fish'],
] as const) {
  test(`in ${shell} a hostile id remains a value, and a hostile address is refused`, unless(shell), async (t) => {
    const { url, vms } = await startPlainServer(t);
    await seed(url, [aVm({ id: 'a', role: 'infra' })]);
    const dir = tempDir(t);
    for (const hostile of HOSTILE) {
      Object.assign(vms.get('a')!, { id: 'a', address: hostile });
      const refused = await vreg(['env', 'infra', flag], { url });
      assert.deepEqual([refused.code, refused.stdout], [5, '']);
      Object.assign(vms.get('a')!, { id: hostile, address: '10.0.0.1' });
      const { stdout: text } = await vreg(['env', 'infra', flag], { url });
      const source = shell === 'fish' ? 'string collect -- $ENV_TEXT | source' : 'eval "$ENV_TEXT"';
      const result = await run(shell, ['-c', `${source}; printf "<%s>" "$VREG_INFRA_ID"`], {
        env: { PATH: process.env.PATH, HOME: dir, ENV_TEXT: text },
        cwd: dir,
      });
      assert.equal(result.stdout, `<${hostile}>`, `${result.stderr}\n${text}`);
      assert.deepEqual(
        readdirSync(dir).filter((name) => name === 'X'),
        [],
      );
    }
  });
}

for (const shell of [
  ['dash', '-eu'],
  ['bash', '--norc', '-eu', '-o', 'pipefail'],
  ['zsh', '-f', '-eu', '-o', 'pipefail'],
]) {
  test(`the examples of env work in ${shell.join(' ')}`, unless(shell[0]!), async () => {
    const good = 'eval "$(vreg env infra --export)"; sh -c \'echo "$VREG_INFRA_ADDR"\'';
    assert.deepEqual((await runScript(shell, good, { url })).stdout, '10.0.0.1\n');
    const stops = 'vars=$(vreg env golden --export) || exit; eval "$vars"; echo on';
    const result = await runScript(shell, stops, { url });
    assert.deepEqual([result.code, result.stdout], [3, '']);
  });
}
