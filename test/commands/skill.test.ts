import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { parse } from 'yaml';
import { loadAllCommands } from '../../src/commands.ts';
import { commandsIn } from '../../src/skill/command-lines.ts';
import { skillPage } from '../../src/skill.ts';
import { vreg } from '../helpers/cli.ts';

const ROOT = join(import.meta.dirname, '../..');

test('skill prints a page whose front matter follows the specification of agentskills.io', async () => {
  const { code, stdout } = await vreg(['skill']);
  assert.equal(code, 0);
  const [, head, body] = /^---\n([\s\S]*?)\n---\n([\s\S]*)$/.exec(stdout)!;
  const fields = parse(head!) as Record<string, string>;
  assert.deepEqual(Object.keys(fields), ['name', 'description', 'license', 'compatibility']);
  assert.equal(fields.name, 'registry');
  assert.equal(
    fields.description,
    'VM service discovery registry. Use when registering VMs, discovering services by role, sending heartbeats, or recovering from session loss.',
  );
  assert.ok(fields.compatibility!.length <= 500);
  assert.ok(stdout.length < 20_000, `${stdout.length} characters`);
  for (const title of ['Register', 'Discover', 'Send heartbeats', 'Recover', 'Find stale VMs', 'Find the infra VM'])
    assert.match(body!, new RegExp(`^## ${title}[\\s\\S]*?With vreg:[\\s\\S]*?With curl:`, 'm'));
  assert.doesNotMatch(stdout, /npm install|-H "Authorization/);
  assert.match(body!, /^\| `vreg wait \[ROLE\\\|ID\]/m);
  const anchors = [...body!.matchAll(/\]\(#([\w-]+)\)/g)].map(([, anchor]) => anchor!);
  const titles = [...body!.matchAll(/^## (.*)$/gm)].map(([, title]) => title!.toLowerCase().replaceAll(' ', '-'));
  assert.deepEqual(
    anchors.filter((anchor) => !titles.includes(anchor)),
    [],
  );
});

test('the package contains the skill in a folder of its name, and pi finds it there', async () => {
  const { pi } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { pi: { skills: string[] } };
  const file = join(ROOT, pi.skills[0]!, 'registry/SKILL.md');
  assert.equal(readFileSync(file, 'utf8'), (await vreg(['skill'])).stdout);
});

test('the usage lines of the skill are those of the declarations', async () => {
  const commands = await loadAllCommands();
  const page = skillPage(commands);
  assert.match(page, /^\| `vreg addr ROLE \[FLAGS\]` \| print the address of a live VM with the given role \|$/m);
  assert.throws(() => skillPage(commands.filter(({ name }) => name !== 'addr')), {
    message: /no such command: vreg addr/,
  });
});

test('a command line with an unknown command, subcommand or flag is not accepted', async () => {
  const commands = await loadAllCommands();
  const pathsIn = (text: string) => commandsIn(text, commands).map(({ path }) => path.join(' '));
  assert.deepEqual(pathsIn('A=$(vreg addr infra) && vreg daemon agent --detach | cat\nvreg ls -o json'), [
    'vreg addr',
    'vreg daemon agent',
    'vreg ls',
  ]);
  for (const line of ['vreg adr infra', 'vreg token whoami', 'vreg ls --rle x', 'vreg heartbeat --detach'])
    assert.throws(() => pathsIn(line), { message: /^no such (command|flag)/ }, line);
});

test('skill -o json has the name, the description and the text', async () => {
  const { stdout } = await vreg(['skill', '-o', 'json']);
  const { name, text } = JSON.parse(stdout) as { name: string; text: string };
  assert.deepEqual([name, text], ['registry', (await vreg(['skill'])).stdout]);
  assert.equal((await vreg(['skill', '-q'])).stdout, 'registry\n');
});
