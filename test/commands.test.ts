import assert from 'node:assert/strict';
import test from 'node:test';
import { Option } from 'commander';
import { type Command, type Flag, GLOBAL_FLAGS, GLOBAL_SETTINGS, SHORT } from '../src/command.ts';
import { BRANCHES, loadAllCommands } from '../src/commands.ts';
import { settingOf } from '../src/config/settings.ts';
import { commandHelp, programHelp } from '../src/help/help.ts';
import { EXIT_MEANING } from '../src/protocol/errors.ts';

interface Place {
  path: readonly string[];
  command: Command<never>;
}

function places(commands: readonly Command<never>[], parents: readonly string[]): Place[] {
  return commands.flatMap((command) => {
    const path = [...parents, command.name];
    return [{ path, command }, ...places(command.commands ?? [], path)];
  });
}

const commands = await loadAllCommands();
const all = places(commands, ['vreg']);

/** The flags of a command, long and short, and whether each requires a value. */
function flagsOf(command: Pick<Command<never>, 'flags' | 'settings'>): Map<string, boolean> {
  const options = [
    ...[...(command.flags ?? []), ...GLOBAL_FLAGS].map(({ flags }) => new Option(flags)),
    ...[...(command.settings ?? []), ...GLOBAL_SETTINGS].map(
      (key) => new Option(`${SHORT[key] ? `${SHORT[key]}, ` : ''}--${key} <${settingOf(key).value ?? 'value'}>`),
    ),
    new Option('-h, --help'),
  ];
  const found = new Map<string, boolean>();
  for (const { long, short, required } of options) {
    for (const flag of [long, short]) if (flag) found.set(flag, required);
  }
  return found;
}

/** The words of each `vreg` invocation in a shell line, up to a pipe or redirection. */
function invocations(line: string): string[][] {
  const parts = line.matchAll(
    /(?:^|[\s("])vreg((?: +(?:'[^']*'|"[^"]*"|<\S|[^\s|&;()<>"'])(?:'[^']*'|"[^"]*"|[^\s|&;()<>"'])*)*)/g,
  );
  return [...parts].map(([, words = '']) =>
    (words.match(/(?:'[^']*'|"[^"]*"|[^\s"'])+/g) ?? []).map((word) => word.replace(/^'(.*)'$/, '$1')),
  );
}

/** The reason why the definitions reject a command line, or undefined. */
function fault(words: readonly string[]): string | undefined {
  let among: readonly Command<never>[] = commands;
  let command: Command<never> | undefined;
  let args = 0;
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    if (word === '--version') continue;
    // Words after -- belong to another program.
    if (word === '--') break;
    if (word.startsWith('-')) {
      const [flag = ''] = word.split('=', 1);
      const takesValue = flagsOf(command ?? {}).get(flag);
      if (takesValue === undefined) return `${word} is not a flag of ${command?.name ?? 'vreg'}`;
      if (takesValue && !word.includes('=')) {
        index++;
        if (words[index] === undefined) return `${word} has no value`;
      }
      continue;
    }
    const child =
      args === 0 ? among.find(({ name, aliases = [] }) => name === word || aliases.includes(word)) : undefined;
    if (child) {
      command = child;
      among = child.commands ?? [];
    } else if (!command) return `${word} is not a command`;
    else args++;
  }
  if (!command) return undefined;
  const { arguments: takes = [] } = command;
  const most = takes.some(({ variadic }) => variadic) ? Number.POSITIVE_INFINITY : takes.length;
  if (args > most) return `${command.name} does not take ${args} arguments`;
  return undefined;
}

test('the parser of examples finds commands and their errors', () => {
  assert.deepEqual(invocations('INFRA=$(vreg addr infra) || exit'), [['addr', 'infra']]);
  assert.deepEqual(invocations("vreg ls -o json | jq -r '.[]'"), [['ls', '-o', 'json']]);
  assert.deepEqual(invocations('vreg ls -q | xargs vreg rm --yes'), [
    ['ls', '-q'],
    ['rm', '--yes'],
  ]);
  assert.deepEqual(invocations('curl "$(vreg url infra --path /x)"'), [['url', 'infra', '--path', '/x']]);
  assert.deepEqual(invocations('vreg update a --meta r="x y"'), [['update', 'a', '--meta', 'r="x y"']]);
  assert.match(fault(['lss'])!, /not a command/);
  assert.match(fault(['ls', '--rolle', 'x'])!, /not a flag/);
  assert.match(fault(['addr', 'a', 'b'])!, /does not take/);
  assert.equal(fault(['config', 'get', 'url', '-o', 'json']), undefined);
});

test('the table of commands has the name and aliases of each command, without duplicates', async () => {
  const words = BRANCHES.flatMap(({ name, aliases = [] }) => [name, ...aliases]);
  assert.equal(new Set(words).size, words.length);
  for (const branch of BRANCHES) {
    const { name, aliases } = await branch.load();
    assert.deepEqual({ name, aliases }, { name: branch.name, aliases: branch.aliases });
  }
});

for (const { path, command } of all) {
  const name = path.join(' ');

  test(`${name} has a summary of one line`, () => {
    assert.match(command.summary, /^[a-z][^\n]{8,57}[^.\n]$/);
    if (command.description) assert.match(command.description, /^[A-Z]/);
  });

  test(`${name} has at least three valid examples`, () => {
    assert.ok(command.examples.length >= 3);
    const mentions = command.examples.filter(({ command: line }) => invocations(line).length > 0);
    assert.equal(mentions.length, command.examples.length);
    for (const { about, command: line } of command.examples) {
      assert.ok(about !== '');
      for (const words of invocations(line)) assert.equal(fault(words), undefined, line);
    }
    const own = command.examples.some(({ command: line }) =>
      invocations(line).some((words) => path.slice(1).every((word, index) => words[index] === word)),
    );
    assert.ok(own, 'none of its examples shows the command itself');
  });

  test(`the help of ${name} fits 80 columns`, () => {
    for (const line of commandHelp(command, path).split('\n')) assert.ok(line.length <= 80, `${line.length}: ${line}`);
  });

  test(`the exit codes of ${name} are known, unique, and not those of all commands`, () => {
    const { exits = [] } = command;
    assert.deepEqual(
      exits,
      [...new Set(exits)].sort((a, b) => a - b),
    );
    for (const code of exits) {
      assert.ok(code in EXIT_MEANING, String(code));
      assert.ok(![0, 1, 5].includes(code), String(code));
    }
  });

  test(`the flags of ${name} are unique`, () => {
    const words = [
      ...[...(command.flags ?? []), ...GLOBAL_FLAGS].flatMap(({ flags }) => {
        const option = new Option(flags);
        return [option.long, option.short, option.attributeName()];
      }),
      ...[...(command.settings ?? []), ...GLOBAL_SETTINGS].flatMap((key) => [`--${key}`, SHORT[key]]),
      '-h',
      '--help',
    ].filter((word) => word !== undefined);
    assert.deepEqual(words, [...new Set(words)]);
  });

  test(`each flag of ${name} with fixed values lists them for completion`, () => {
    const choice = /status|role|pick|scheme|if-exists|sort|values/;
    for (const flag of command.flags ?? []) {
      const { long, required } = new Option(flag.flags);
      if (required && choice.test(long!)) assert.ok(offersOf(flag), `${long} has no values for completion`);
      if (/<(file|dir)>/.test(flag.flags)) assert.equal(flag.file, true, `${long} does not complete files`);
      if (!required) assert.equal(offersOf(flag), undefined);
      assert.ok(flag.about !== '');
    }
  });

  test(`the usage of ${name} has optional arguments last and a list at the end`, () => {
    const takes = command.arguments ?? [];
    const order = takes.map(({ optional, variadic }) => (variadic ? 2 : optional ? 1 : 0));
    assert.deepEqual(order, [...order].sort());
    for (const { about } of takes) assert.ok(about !== '');
  });
}

function offersOf({ values, file }: Flag): unknown {
  return values ?? (file || undefined);
}

test('the help of the program lists every command and fits 80 columns', () => {
  const lines = programHelp(commands).split('\n');
  for (const line of lines) assert.ok(line.length <= 80, `${line.length}: ${line}`);
  for (const { name } of commands)
    assert.ok(
      lines.some((line) => new RegExp(`^  ${name}(,|  )`).test(line)),
      name,
    );
  for (const line of lines.filter((line) => line.includes('vreg '))) {
    for (const words of invocations(line.replace(/^(Usage|More):.*/, ''))) assert.equal(fault(words), undefined, line);
  }
});
