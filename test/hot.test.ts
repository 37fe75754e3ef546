import assert from 'node:assert/strict';
import test from 'node:test';
import { loadCommand } from '../src/commands.ts';
import { HOT_COMMANDS, isHot } from '../src/hot.ts';

test('the hot commands have the names and aliases that they declare', async () => {
  for (const [name, aliases] of Object.entries(HOT_COMMANDS)) {
    const command = await loadCommand(name);
    assert.deepEqual([command?.name, command?.aliases ?? []], [name, aliases]);
  }
});

test('a command line is hot by its command, wherever flags are', () => {
  for (const line of [
    'addr infra',
    'ps',
    '-u http://a addr infra',
    '-q --context prod ls --watch',
    '--help',
    '--version',
    '',
    '__complete zsh exec ',
    'get --help',
  ])
    assert.ok(isHot(line.split(' ').filter(Boolean)), line);
  for (const line of ['register a', 'exec addr', '-u addr watch', 'help addr', 'daemon', 'unknown', '-o json config'])
    assert.ok(!isHot(line.split(' ')), line);
});
