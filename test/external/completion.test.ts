/** The completion scripts in real shells. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { delimiter, join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { loadAllCommands } from '../../src/commands.ts';
import { SHELLS, type Shell } from '../../src/completion/scripts.ts';
import { ROLES } from '../../src/protocol/vm.ts';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { BIN, cleanEnv, endAfter, run, tempDir } from '../helpers/daemon.ts';
import { json, stub } from '../helpers/stub.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const SCRIPTS = join(import.meta.dirname, '../../completions');
const commands = await loadAllCommands();
const names = commands.map(({ name }) => name);

/**
 * Programs that press Tab after a line and print one candidate per line. They get the folder of the scripts and the line, except
 * bash, whose words follow the line.
 */
const DRIVERS: Readonly<Record<Shell, readonly string[]>> = {
  bash: [
    'bash',
    '--norc',
    '-c',
    `source "$0/vreg.bash"
COMP_LINE=$1 COMP_POINT=\${#1} COMP_TYPE=9; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_vreg; [[ \${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "\${COMPREPLY[@]}"`,
  ],
  fish: ['fish', '--no-config', '-c', `source $argv[1]/vreg.fish; complete -C "$argv[2]"`],
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
zpty -n -w tab "$1"$'\\t'
while zpty -r tab line; do
  [[ $line == *OFFER:* ]] && print -r -- "\${\${line##*OFFER:}%%$'\\r'*}"
  [[ $line == *THEEND* ]] && break
done
zpty -d tab
`,
  ],
};

interface Completing {
  /** Candidates for the end of the line, sorted, without descriptions. */
  offers(shell: Shell, line: string): Promise<string[]>;
  /**
   * Types lines into an interactive shell, in which `\t` is the Tab key, and presses Enter after each.
   * @param setup a command to run first
   * @returns the arguments with which the shell runs vreg, for each line
   */
  type(shell: Shell, lines: readonly string[], setup?: string): Promise<string[][]>;
  home: string;
}

/** A home folder with `vreg` on PATH. */
function completing(t: TestContext, url: string): Completing {
  const home = tempDir(t);
  writeFileSync(join(home, 'vreg'), `#!/bin/sh\nexec "${process.execPath}" "${BIN}" "$@"\n`);
  chmodSync(join(home, 'vreg'), 0o755);
  const PATH = `${home}${delimiter}${process.env.PATH}`;
  const env = cleanEnv(home, { PATH, TERM: 'dumb', VERS_INFRA_URL: url });
  return {
    home,
    offers: async (shell, line) => {
      const [program, ...args] = DRIVERS[shell];
      const words = shell === 'bash' ? line.split(' ') : [];
      const { code, stdout, stderr } = await run(program!, [...args, SCRIPTS, line, ...words], { env, cwd: home });
      assert.deepEqual([code, stderr], [0, ''], line);
      const lines = stdout.split('\n').filter((text) => text !== '');
      return [...new Set(lines.map((text) => text.split('\t', 1)[0]!.trim()))].sort();
    },
    type: (shell, lines, setup = '') => typeLines(t, { ...TERMINALS[shell], setup, lines, env, home }),
  };
}

interface Terminal {
  /** Starts an interactive shell without the configuration of this machine. */
  command: string;
  /** Loads the script, and defines a function `vreg` that saves its arguments in $ARGS, each followed by a NUL. */
  prepare: string;
}

const TERMINALS: Readonly<Record<Shell, Terminal>> = {
  bash: {
    command: 'bash --norc -i',
    prepare: `source ${SCRIPTS}/vreg.bash; vreg() { printf '%s\\0' "$@" >"$ARGS"; }`,
  },
  zsh: {
    command: 'zsh -f -i',
    prepare: `autoload -U compinit; compinit -u -D; source ${SCRIPTS}/_vreg; vreg() { printf '%s\\0' "$@" >"$ARGS" }`,
  },
  fish: {
    command: 'fish --no-config -i',
    prepare: `source ${SCRIPTS}/vreg.fish; function vreg; printf '%s\\0' $argv >"$ARGS"; end`,
  },
};

interface Session extends Terminal {
  setup: string;
  lines: readonly string[];
  env: NodeJS.ProcessEnv;
  home: string;
}

async function typeLines(t: TestContext, { command, prepare, setup, lines, env, home }: Session): Promise<string[][]> {
  const saved = join(home, 'args');
  // script(1) runs the shell in a terminal.
  const shell = spawn('script', ['-qec', command, '/dev/null'], { env: { ...env, ARGS: saved }, cwd: home });
  const exit = once(shell, 'exit');
  endAfter(t, async () => {
    shell.kill('SIGKILL');
    await exit;
  });
  let output = '';
  shell.stdout.on('data', (chunk) => {
    output += chunk;
  });
  shell.stdin.on('error', () => {});
  // The shell echoes the command before it runs it, so the text must differ.
  shell.stdin.write(`${setup}\n${prepare}; echo "RE""ADY"\n`);
  await until('the shell', () => output.includes('READY'));
  const runs: string[][] = [];
  for (const line of lines) {
    shell.stdin.write(`${line}\n`);
    await until(`vreg to run: ${line}`, () => existsSync(saved) && readFileSync(saved, 'utf8').endsWith('\0'));
    runs.push(readFileSync(saved, 'utf8').split('\0').slice(0, -1));
    rmSync(saved);
  }
  shell.stdin.end('exit\n');
  await exit;
  return runs;
}

const NOWHERE = 'http://127.0.0.1:1';

for (const shell of SHELLS) {
  const needs = { ...unless(shell), timeout: 120_000 };
  const needsTerminal = { ...unless(shell, 'script'), timeout: 120_000 };

  test(`${shell} completes commands, subcommands, flags and fixed values`, needs, async (t) => {
    const { offers } = completing(t, NOWHERE);
    assert.deepEqual(await offers(shell, 'vreg '), [...names].sort());
    assert.deepEqual(await offers(shell, 'vreg he'), ['health', 'heartbeat', 'help']);
    assert.deepEqual(await offers(shell, 'vreg config '), ['edit', 'get', 'list', 'path', 'set', 'unset']);
    assert.deepEqual(await offers(shell, 'vreg config get stale'), ['stale-after']);
    assert.deepEqual(await offers(shell, 'vreg ls --role '), [...ROLES].sort());
    assert.deepEqual(await offers(shell, 'vreg list --role w'), ['worker']);
    assert.deepEqual(await offers(shell, 'vreg discover '), [...ROLES].sort());
    assert.deepEqual(await offers(shell, 'vreg completion '), ['bash', 'fish', 'zsh']);
    assert.deepEqual(await offers(shell, 'vreg help exit'), ['exit-codes']);
    const flags = await offers(shell, 'vreg discover --');
    for (const flag of ['--service', '--wait', '--url', '--output', '--help']) assert.ok(flags.includes(flag), flag);
    assert.ok(!flags.includes('--role'));
    assert.deepEqual(await offers(shell, 'vreg wait --for cou'), ['count=']);
    // A flag with an optional value is followed by its value or by another flag.
    assert.deepEqual(await offers(shell, 'vreg daemon serve --trust-proxy lo'), ['loopback']);
    assert.deepEqual(await offers(shell, 'vreg daemon serve --trust-proxy --po'), ['--port']);
  });

  test(`${shell} completes files, and files and programs after --`, needs, async (t) => {
    const { offers, home } = completing(t, NOWHERE);
    mkdirSync(join(home, 'files'));
    writeFileSync(join(home, 'files/token'), '');
    const file = shell === 'bash' ? [] : ['files/token'];
    // With no candidates, bash completes files itself.
    if (shell !== 'zsh') assert.deepEqual(await offers(shell, 'vreg ls --token-file files/to'), file);
    assert.ok((await offers(shell, 'vreg exec infra -- unam')).includes('uname'));
    assert.deepEqual(await offers(shell, 'vreg exec infra unam'), []);
  });

  test(`${shell} inserts words that vreg receives as they are`, needsTerminal, async (t) => {
    const { url } = await serveApp(t);
    const mark = join(tempDir(t), 'ran');
    const hostile = `h$(touch ${mark})\`touch ${mark}\``;
    const ids = ['a:b:c', 'q"x', "i'x", 'b\\x', 'sp ace', 'v$HOME', 'x!y', hostile, 'eq=1', 'm*r', 'n~', 'ü-1', '@at'];
    const quotes = ['!!', `"'$'"`];
    await seed(
      url,
      [...ids, ...quotes].map((id) =>
        aVm({ id, services: [{ name: 'api', port: 1 }], metadata: { task: 'bill:ing' } }),
      ),
    );
    const { type, home } = completing(t, url);
    writeFileSync(join(home, 'token.txt'), '');
    const cases: readonly (readonly [line: string, ...args: string[]])[] = [
      ...ids.map((id) => [`vreg get ${id[0]}\t`, 'get', id] as const),
      ['vreg get a:\t', 'get', 'a:b:c'],
      ['vreg get a:b\t', 'get', 'a:b:c'],
      ['vreg get sp\\ a\t', 'get', 'sp ace'],
      ['vreg get "sp a\t', 'get', 'sp ace'],
      ["vreg get 'sp a\t", 'get', 'sp ace'],
      ['vreg get "a:b\t', 'get', 'a:b:c'],
      ['vreg get "h\t', 'get', hostile],
      ["vreg get 'h\t", 'get', hostile],
      ['vreg get "q\t', 'get', 'q"x'],
      ['vreg get "x\t', 'get', 'x!y'],
      ['vreg get "!\t', 'get', '!!'],
      [`vreg get '"\t`, 'get', `"'$'"`],
      [`vreg get "\\"\t`, 'get', `"'$'"`],
      ['vreg get @\tn\t', 'get', '@at', 'n~'],
      ['vreg ls --role=wo\t', 'ls', '--role=worker'],
      ['vreg ls --role=worker,in\t', 'ls', '--role=worker,infra'],
      ['vreg ls -l ta\tb\t', 'ls', '-l', 'task=bill:ing'],
      ['vreg ls --selector=task=bill\t', 'ls', '--selector=task=bill:ing'],
      ['vreg wait --for cou\t3', 'wait', '--for', 'count=3'],
      ['vreg disc\twor\t--serv\ta\t', 'discover', 'worker', '--service', 'api'],
      ['vreg watch --id=a:\t--sin\tst\t', 'watch', '--id=a:b:c', '--since', 'start'],
      ['vreg ls --token-file ~/to\t', 'ls', '--token-file', join(home, 'token.txt')],
      ['vreg ls --token-file=./to\t', 'ls', '--token-file=./token.txt'],
      ['vreg render to\t', 'render', 'token.txt'],
      ['vreg render token.txt:./to\t', 'render', 'token.txt:./token.txt'],
      ['vreg exec worker -- cat ./to\t', 'exec', 'worker', '--', 'cat', './token.txt'],
    ];
    const lines = cases.map(([line]) => line);
    const runs = await type(shell, lines);
    assert.deepEqual(
      runs.map((args, index) => [lines[index], ...args]),
      cases,
    );
    assert.equal(existsSync(mark), false);
  });

  test(`${shell} offers no value of a hostile registry that contains control characters`, needs, async (t) => {
    const ids = ['good', 'a\nb', 'a\tb', 'a\u001b[2Jb', 'a\rb', '-rf', 'a\u202eb', '', 7, null];
    const vms = ids.map((id) => ({ ...aVm(), id, name: 'n\n\u001b[2J', role: '\tx' }));
    const url = await stub(t, (_request, response) => json(response, 200, { vms, count: 1 }));
    assert.deepEqual(await completing(t, url).offers(shell, 'vreg get '), ['7', 'good', 'null']);
  });

  test(`${shell} offers and prints nothing if the registry is unreachable or does not respond`, needs, async (t) => {
    assert.deepEqual(await completing(t, NOWHERE).offers(shell, 'vreg get '), []);
    assert.deepEqual(await completing(t, 'nonsense').offers(shell, 'vreg get '), []);
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
    assert.deepEqual(await completing(t, url).offers(shell, 'vreg get '), []);
    assert.ok(sockets.size > 0);
    // Half of the default request timeout.
    assert.ok(performance.now() - before < 5000);
  });
}

test('the reply to a completion script is complete, however large it is', async (t) => {
  // Several times the capacity of a pipe. Few VMs, because completion waits for the registry no longer than 300 ms.
  const vms = Array.from({ length: 500 }, (_, index) => aVm({ id: `${'a-long-id'.repeat(50)}-${index}` }));
  const url = await stub(t, (_request, response) => json(response, 200, { vms, count: vms.length }));
  const home = tempDir(t);
  const args = [BIN, '__complete', 'fish', 'get', ''];
  const { stdout } = await run(process.execPath, args, { env: cleanEnv(home, { VERS_INFRA_URL: url }) });
  assert.equal(stdout.split('\n').length, vms.length + 2);
});

/** Where Debian and most other distributions install it. */
const BASH_COMPLETION = '/usr/share/bash-completion/bash_completion';
const noBashCompletion = existsSync(BASH_COMPLETION) || process.env.CI ? false : `needs ${BASH_COMPLETION}`;

test('with bash-completion, bash completes the arguments of a program after -- as usual', {
  skip: unless('bash', 'script').skip || noBashCompletion,
}, async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a:b' })]);
  const { type } = completing(t, url);
  const setup = `source ${BASH_COMPLETION}; _grep_me() { COMPREPLY=(chosen); }; complete -F _grep_me uname`;
  assert.deepEqual(await type('bash', ['vreg exec infra -- uname x\t', 'vreg get a:\t'], setup), [
    ['exec', 'infra', '--', 'uname', 'chosen'],
    ['get', 'a:b'],
  ]);
});

test('bash completes words if COMP_WORDBREAKS has no equals sign and no colon', unless('bash', 'script'), async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a:b' })]);
  const { type, home } = completing(t, url);
  writeFileSync(join(home, 'token file'), '');
  const setup = `COMP_WORDBREAKS=\${COMP_WORDBREAKS//[=:]}`;
  const lines = ['vreg get a:\t', 'vreg ls --role=wo\t', 'vreg ls --token-file=./to\t'];
  assert.deepEqual(await type('bash', lines, setup), [
    ['get', 'a:b'],
    ['ls', '--role=worker'],
    ['ls', '--token-file=./token file'],
  ]);
});

test('bash lists candidates with their descriptions', unless('bash'), async (t) => {
  const home = tempDir(t);
  const script = `source ${SCRIPTS}/vreg.bash; COMP_LINE='vreg he' COMP_POINT=7 COMP_TYPE=63; vreg() { :; }
_vreg; printf '%s\\n' "\${COMPREPLY[@]}"`;
  symlinkSync(BIN, join(home, 'vreg'));
  const env = cleanEnv(home, { PATH: `${home}${delimiter}${process.env.PATH}` });
  const { stdout } = await run('bash', ['--norc', '-c', script], { env });
  const lines = stdout.trimEnd().split('\n').sort();
  assert.match(lines.join('\n'), /^health +\(check the health of the registry\)\nheartbeat +\(.+\)\nhelp +\(.+\)$/);
});
