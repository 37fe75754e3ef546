/** Completion scripts in real shells. */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { delimiter, join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { loadAllCommands } from '../../src/commands.ts';
import { SHELLS, type Shell } from '../../src/completion.ts';
import { ROLES } from '../../src/protocol/vm.ts';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { BIN, cleanEnv, run, tempDir } from '../helpers/daemon.ts';
import { unless } from '../helpers/tools.ts';
import { aVm } from '../helpers/vm.ts';

const SCRIPTS = join(import.meta.dirname, '../../completions');
const commands = await loadAllCommands();
const names = commands.map(({ name }) => name);

/** Command lines that press Tab after the given words and print one candidate per line. */
const DRIVERS: Readonly<Record<Shell, readonly string[]>> = {
  bash: [
    'bash',
    '--norc',
    '-c',
    `source "$0/vreg.bash"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vreg; [[ \${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "\${COMPREPLY[@]}"`,
  ],
  fish: ['fish', '--no-config', '-c', `source $argv[1]/vreg.fish; complete -C "$argv[2..-1]"`],
  // zsh completes only in a terminal, so this runs one and logs the arguments of compadd.
  zsh: [
    'zsh',
    '-f',
    '-c',
    `
zmodload zsh/zpty
scripts=$0
zpty tab zsh -f -i
zpty -w tab "PS1= PS2= TERM=dumb; unsetopt zle_bracketed_paste; fpath=($scripts \\$fpath); autoload -U compinit; compinit -u -D"
zpty -w tab 'compadd() {
  [[ "\${@[1,(i)(-|--)]}" == *-(O|A|D)\\ * ]] && { builtin compadd "$@"; return }
  local -a offers; builtin compadd -A offers "$@"; print -rl -- "OFFER:"\${^offers}; builtin compadd "$@"
}'
zpty -w tab 'quit() { print -r "THE""END"; exit }; comppostfuncs=(quit); bindkey "^I" complete-word; print -r READY""NOW'
while zpty -r tab line; do [[ $line == *READYNOW* ]] && break; done
zpty -n -w tab "$*"$'\\t'
while zpty -r tab line; do
  [[ $line == *OFFER:* ]] && print -r -- "\${\${line##*OFFER:}%%$'\\r'*}"
  [[ $line == *THEEND* ]] && break
done
zpty -d tab
`,
  ],
};

interface Completing {
  /** Candidates for the last word, sorted, without descriptions. */
  offers(shell: Shell, ...words: readonly string[]): Promise<string[]>;
}

/** A home folder with `vreg` on PATH. */
function completing(t: TestContext, url: string): Completing {
  const home = tempDir(t);
  writeFileSync(join(home, 'vreg'), `#!/bin/sh\nexec "${process.execPath}" "${BIN}" "$@"\n`);
  chmodSync(join(home, 'vreg'), 0o755);
  const env = cleanEnv(home, { PATH: `${home}${delimiter}${process.env.PATH}`, VERS_INFRA_URL: url });
  return {
    offers: async (shell, ...words) => {
      const [program, ...args] = DRIVERS[shell];
      const { code, stdout, stderr } = await run(program!, [...args, SCRIPTS, 'vreg', ...words], { env, cwd: home });
      assert.deepEqual([code, stderr], [0, ''], words.join(' '));
      const lines = stdout.split('\n').filter((line) => line !== '');
      return [...new Set(lines.map((line) => line.split('\t', 1)[0]!.trim()))].sort();
    },
  };
}

const NOWHERE = 'http://127.0.0.1:1';

for (const shell of SHELLS) {
  test(`${shell} completes commands, subcommands, flags and fixed values`, {
    ...unless(shell),
    timeout: 60_000,
  }, async (t) => {
    const { offers } = completing(t, NOWHERE);
    assert.deepEqual(await offers(shell, ''), [...names].sort());
    assert.deepEqual(await offers(shell, 'he'), ['health', 'heartbeat', 'help']);
    assert.deepEqual(await offers(shell, 'daemon', ''), [
      'agent',
      'install',
      'restore',
      'serve',
      'status',
      'stop',
      'uninstall',
      'unit',
    ]);
    assert.deepEqual(await offers(shell, 'config', ''), ['edit', 'get', 'list', 'path', 'set', 'unset']);
    assert.deepEqual(await offers(shell, 'config', 'get', 'stale'), ['stale-after']);
    assert.deepEqual(await offers(shell, 'ls', '--role', ''), [...ROLES].sort());
    assert.deepEqual(await offers(shell, 'list', '--role', 'w'), ['worker']);
    assert.deepEqual(await offers(shell, 'discover', ''), [...ROLES].sort());
    assert.deepEqual(await offers(shell, 'ls', '-o', 'js'), ['json']);
    assert.deepEqual(await offers(shell, 'daemon', 'agent', '--on-exit', ''), ['deregister', 'keep', 'stopped']);
    assert.deepEqual(await offers(shell, 'daemon', 'stop', ''), ['agent', 'serve']);
    assert.deepEqual(await offers(shell, 'completion', ''), ['bash', 'fish', 'zsh']);
    assert.deepEqual(await offers(shell, 'help', 'regi'), ['register']);
    assert.deepEqual(await offers(shell, 'help', 'exit'), ['exit-codes']);
    const flags = await offers(shell, 'discover', '--');
    for (const flag of ['--service', '--wait', '--url', '--output', '--help']) assert.ok(flags.includes(flag), flag);
    assert.ok(!flags.includes('--role'));
    assert.deepEqual(await offers(shell, 'url', '--sch'), ['--scheme']);
    // A flag with an optional value is followed by its value or by another flag.
    const behind = shell === 'fish' ? ['--trust-proxy=lo'] : ['--trust-proxy', 'lo'];
    assert.match((await offers(shell, 'daemon', 'serve', ...behind)).join(), /^(--trust-proxy=)?loopback$/);
    assert.deepEqual(await offers(shell, 'daemon', 'serve', '--trust-proxy', '--po'), ['--port']);
  });

  test(`${shell} completes the ids of registered VMs`, { ...unless(shell), timeout: 60_000 }, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id: 'worker-1' }), aVm({ id: 'worker-2' }), aVm({ id: 'other' })]);
    const { offers } = completing(t, url);
    assert.deepEqual(await offers(shell, 'get', ''), ['other', 'worker-1', 'worker-2']);
    assert.deepEqual(await offers(shell, 'get', 'wo'), ['worker-1', 'worker-2']);
    assert.deepEqual(await offers(shell, 'rm', 'o'), ['other']);
    assert.deepEqual(await offers(shell, 'heartbeat', 'other', 'worker'), ['worker-1', 'worker-2']);
  });

  test(`${shell} does not execute the content of an id`, { ...unless(shell), timeout: 60_000 }, async (t) => {
    const { url } = await serveApp(t);
    const mark = join(tempDir(t), 'ran');
    await seed(url, [aVm({ id: `a$(touch ${mark})` }), aVm({ id: `a\`touch ${mark}\`` })]);
    const { offers } = completing(t, url);
    assert.equal((await offers(shell, 'get', '')).length, 2);
    assert.equal(existsSync(mark), false);
  });

  test(`${shell} offers and prints nothing if the registry is unreachable or does not respond`, {
    ...unless(shell),
    timeout: 60_000,
  }, async (t) => {
    assert.deepEqual(await completing(t, NOWHERE).offers(shell, 'get', ''), []);
    assert.deepEqual(await completing(t, 'nonsense').offers(shell, 'get', ''), []);
    const silent = createServer();
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const sockets = new Set<Socket>();
    silent.on('connection', (socket) => sockets.add(socket));
    t.after(() => {
      for (const socket of sockets) socket.destroy();
      silent.close();
    });
    const before = performance.now();
    const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    assert.deepEqual(await completing(t, url).offers(shell, 'get', ''), []);
    assert.ok(sockets.size > 0);
    // Half of the default request timeout.
    assert.ok(performance.now() - before < 5000);
  });
}

test('bash completes a value after an equals sign', unless('bash'), async (t) => {
  const { offers } = completing(t, NOWHERE);
  assert.deepEqual(await offers('bash', 'ls', '--role', '='), [...ROLES].sort());
  assert.deepEqual(await offers('bash', 'ls', '--role', '=', 'wo'), ['worker']);
});

test('bash quotes an id with special characters', unless('bash'), async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a b;c' })]);
  assert.deepEqual(await completing(t, url).offers('bash', 'get', 'a'), ['a\\ b\\;c']);
});
