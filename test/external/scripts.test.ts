/** Shell scripts that take no excuses: `set -eu`, and pipefail where there is one. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { runScript } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';
import { aVm } from '../helpers/vm.ts';

const SHELLS = [
  ['dash', '-eu'],
  ['bash', '--norc', '-eu', '-o', 'pipefail'],
  ['zsh', '-f', '-eu', '-o', 'pipefail'],
];

/** More than a pipe holds (64 KiB on Linux), so that the writer meets the closed end. */
const MANY = Array.from({ length: 400 }, (_, index) => aVm({ id: `w${index}`, address: 'a'.repeat(300) }));

async function fleet(t: TestContext): Promise<string> {
  const { url } = await serveApp(t);
  const services = [{ name: 'api', port: 3001 }];
  await seed(url, [
    aVm({ id: 'i', name: 'it is "me"', role: 'infra', address: '10.0.0.1', services }),
    aVm({ id: 'w' }),
  ]);
  return url;
}

const SCRIPTS: readonly [name: string, script: string, code: number, stdout: string, stderr: RegExp][] = [
  ['the address, or stop', 'INFRA=$(vreg addr infra) || exit; echo "at $INFRA"', 0, 'at 10.0.0.1\n', /^$/],
  [
    'the address of nobody',
    'GOLDEN=$(vreg addr golden) || exit; echo "at $GOLDEN"',
    3,
    '',
    /^vreg: no live golden VM \(none registered\)\nhint: .*\n$/,
  ],
  ['set -e stops at a command that fails', 'vreg get nope; echo on', 3, '', /^vreg: nope: VM not found\n/],
  ['if, else', 'if vreg get nope -q 2>/dev/null; then echo yes; else echo "no $?"; fi', 0, 'no 3\n', /^$/],
  ['a loop over ids', 'vreg ls --sort id -q | while read -r id; do echo "<$id>"; done', 0, '<i>\n<w>\n', /^$/],
  [
    'columns by tabs',
    `vreg ls --no-headers --role infra | while IFS="$(printf '\\t')" read -r id name rest; do echo "$id $name"; done`,
    0,
    'i it is "me"\n',
    /^$/,
  ],
  ['variables by eval', 'eval "$(vreg env infra --export)"; echo "$VREG_INFRA_ADDR"', 0, '10.0.0.1\n', /^$/],
  [
    'variables, or stop',
    'vars=$(vreg env golden --export) || exit; eval "$vars"; echo on',
    3,
    '',
    /^vreg: no live golden/,
  ],
  ['a template', `vreg ls --sort id -o template='{{id}}={{role}}\\n'`, 0, 'i=infra\nw=worker\n', /^$/],
  ['the exit code of what exec ran', 'vreg exec infra -- sh -c "exit 9" || echo "it was $?"', 0, 'it was 9\n', /^$/],
  [
    'a question that nobody can answer',
    'vreg rm w </dev/null || echo "it was $?"',
    0,
    'it was 7\n',
    /^vreg: cannot ask/,
  ],
  [
    'one that is answered beforehand',
    'vreg ls --role worker -q | xargs -n1 echo; vreg rm w --yes -q',
    0,
    'w\nw\n',
    /^$/,
  ],
];

for (const shell of SHELLS) {
  for (const [name, script, code, stdout, stderr] of SCRIPTS) {
    test(`${shell[0]}: ${name}`, unless(shell[0]!), async (t) => {
      const told = await runScript(shell, script, { url: await fleet(t) });
      assert.deepEqual([told.code, told.stdout], [code, stdout], told.stderr);
      assert.match(told.stderr, stderr);
    });
  }

  for (const argv of ['ls', 'ls -o json', 'export', 'ls -o wide']) {
    test(`${shell}: vreg ${argv} | head -1 succeeds and prints no error`, unless(shell[0]!), async (t) => {
      const { url } = await startPlainServer(t);
      await seed(url, MANY);
      const told = await runScript(shell, `vreg ${argv} | head -1 >/dev/null; echo "ended with $?"`, { url });
      assert.deepEqual(told, { code: 0, signal: null, stdout: 'ended with 0\n', stderr: '' });
    });
  }
}
