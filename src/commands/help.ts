import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, defineCommand } from '../command.ts';
import { envNameOf, SETTING_KEYS, settingOf } from '../config/settings.ts';
import { createFolder } from '../files.ts';
import { commandHelp, programHelp, wrap } from '../help/help.ts';
import { manPages } from '../help/man.ts';
import { suggestion } from '../help/suggest.ts';
import { EXIT_MEANING, VregError } from '../protocol/errors.ts';

const TOPICS: Readonly<Record<string, () => string>> = {
  'exit-codes': () =>
    `${Object.entries(EXIT_MEANING)
      .map(([code, meaning]) => `${code.padStart(7)}  ${meaning}`)
      .join('\n')}\n  128+n  ended by signal n\n`,
  environment: () =>
    `${SETTING_KEYS.map((key) => {
      const { about, sharedVariables = [] } = settingOf(key);
      const text = wrap(about, 76).replaceAll('\n', '\n    ');
      return `${[envNameOf(key), ...sharedVariables].join(', ')}\n    ${text}`;
    }).join(
      '\n',
    )}\nVREG_TOKEN, VERS_AUTH_TOKEN\n    bearer token\nREEF_PARENT_VM_ID\n    id of the parent of this VM\nVERS_COMMIT_ID\n    commit from which this VM was started, for its metadata\nVREG_CONTEXT\n    context to use from the config file\nNO_COLOR, FORCE_COLOR\n    disable or force colour\n`,
  formatting: () => FORMATTING,
  recipes: () => RECIPES,
};

const FORMATTING = `-o, --output selects the output format:
  table               aligned columns (default on a terminal)
  wide                more columns
  tsv                 tab-separated columns (default in a pipe)
  json, yaml          entries as in the API; a list is an array
  ndjson              one entry per line
  name                only ids; same as -q
  jsonpath=PATH       text with paths in braces, as in kubectl:
                      -o jsonpath='{.name} is {.status}'
                      -o jsonpath='{.items[?(@.role=="infra")].id}'
                      -o jsonpath='{range .items[*]}{.id}{"\\n"}{end}'
                      or one path (RFC 9535), one value per line:
                      -o jsonpath='$[*].address'
                      If it matches nothing: exit code 3 for one VM, 0 for a
                      list.
  template=TEMPLATE   a mustache template, rendered once per entry:
                      -o template='{{id}} {{address}}\\n'
Commands that read VMs add two fields to the entries: live (live, suspect,
stale, paused or stopped) and ageSeconds (since the last sign of life):
  vreg ls -o json | jq '.[] | select(.live == "live").id'
--no-headers omits the column titles. Times are relative on a terminal
("3m ago") and RFC 3339 elsewhere.
`;

const RECIPES = `Get the address of the infra VM; stop the script if there is none
  INFRA=$(vreg addr infra) || exit
Wait for a worker, then run a command with its address
  vreg wait worker --timeout 5m && vreg exec worker -- env
Drain a VM
  vreg pause abc-123-def
Remove dead VMs
  vreg prune --older-than 24h --dry-run
  vreg prune --older-than 24h
Copy a fleet to another registry
  vreg export -u http://old:3000 | vreg import -u http://new:3000 --yes -f -
Back up every night, and restore
  vreg backup --force /var/backups/vreg.db
  vreg daemon stop serve && vreg daemon restore /var/backups/vreg.db
  vreg daemon --detach
Reload a proxy whenever workers change
  vreg render workers.mustache:workers.conf:'nginx -s reload' --watch
Set addresses in the environment of a script
  vars=$(vreg env infra worker --export) || exit; eval "$vars"
`;

export const help = defineCommand<{ writeMan?: string }>({
  name: 'help',
  summary: 'show help for a command or topic',
  description: `Shows help for a command or a topic. Topics: ${Object.keys(TOPICS).join(', ')}.`,
  arguments: [
    {
      name: 'command',
      about: 'command or topic',
      optional: true,
      variadic: true,
      values: 'commands',
      offers: Object.keys(TOPICS),
    },
  ],
  flags: [{ flags: '--write-man <dir>', about: 'write the manual pages to a folder', file: true }],
  examples: [
    { about: 'list all commands', command: 'vreg help' },
    { about: 'help for one command (same as vreg register --help)', command: 'vreg help register' },
    { about: 'the meaning of the exit codes', command: 'vreg help exit-codes' },
  ],
  lenient: true,
  async run(context, words, { writeMan }) {
    const commands = await context.commands();
    if (writeMan !== undefined) {
      createFolder(writeMan);
      for (const { file, text } of manPages(commands, context.version)) writeFileSync(join(writeMan, file), text);
      return;
    }
    const topic = words.length === 1 ? TOPICS[words[0]!] : undefined;
    if (topic) return context.io.out(topic());
    let found: Command<never> | undefined;
    let among: readonly Command<never>[] = commands;
    for (const word of words) {
      found = among.find(({ name, aliases = [] }) => name === word || aliases.includes(word));
      if (!found) {
        const known = [...among.map(({ name }) => name), ...Object.keys(TOPICS)];
        throw new VregError('USAGE', `no help for "${words.join(' ')}"${suggestion(word, known)}`, {
          hint: 'list the commands: vreg help',
        });
      }
      among = found.commands ?? [];
    }
    context.io.out(found ? commandHelp(found, ['vreg', ...words.slice(0, -1), found.name]) : programHelp(commands));
  },
});
