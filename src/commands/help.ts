import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, defineCommand } from '../command.ts';
import { envNameOf, SETTING_KEYS, settingOf } from '../config/settings.ts';
import { commandHelp, programHelp } from '../help/help.ts';
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
      const { about, vers } = settingOf(key);
      return `${[envNameOf(key), vers].filter(Boolean).join(', ')}\n    ${about}`;
    }).join(
      '\n',
    )}\nVREG_TOKEN, VERS_AUTH_TOKEN\n    the bearer token itself\nVREG_CONTEXT\n    which context of the config file\nNO_COLOR, FORCE_COLOR\n    colour off, colour on\n`,
  formatting: () => FORMATTING,
  recipes: () => RECIPES,
};

const FORMATTING = `-o, --output says how an answer is printed:
  table               columns, on a terminal (the default there)
  wide                more columns
  tsv                 the same columns with tabs between (the default in a pipe)
  json, yaml          the entries as the API has them; a list is an array
  ndjson              one entry a line
  name                ids only, as -q
  jsonpath=PATH       RFC 9535: -o jsonpath='$[*].address' of a list
                      in braces, among text: -o jsonpath='{.name} is {.status}'
  template=TEMPLATE   mustache, once for each entry:
                      -o template='{{id}} {{address}}\\n'
--no-headers leaves the titles of columns out. Times are ages on a terminal
("3m ago") and RFC 3339 elsewhere.
`;

const RECIPES = `The address of the infra VM, or stop
  INFRA=$(vreg addr infra) || exit
Wait for a worker, then use it
  vreg wait worker --timeout 5m && vreg exec worker -- env
Drain one VM
  vreg pause abc-123-def
Clean up what is dead
  vreg prune --older-than 24h --dry-run
  vreg prune --older-than 24h
Move a fleet to another registry
  vreg export -u http://old:3000 | vreg import -u http://new:3000 --yes -f -
A copy every night, and back
  vreg backup --force /var/backups/vreg.db
  vreg daemon stop serve && vreg daemon restore /var/backups/vreg.db
  vreg daemon --detach
Reload a proxy when workers come and go
  vreg render workers.mustache:workers.conf:'nginx -s reload' --watch
Addresses in the environment of a script
  vars=$(vreg env infra worker --export) || exit; eval "$vars"
`;

export const help = defineCommand<{ writeMan?: string }>({
  name: 'help',
  summary: 'help on a command or a topic',
  description: `Help on a command, or on a topic: ${Object.keys(TOPICS).join(', ')}.`,
  arguments: [
    { name: 'command', about: 'command or topic', optional: true, variadic: true, values: Object.keys(TOPICS) },
  ],
  flags: [{ flags: '--write-man <dir>', about: 'write the manual pages into a folder', file: true }],
  examples: [
    { about: 'all commands', command: 'vreg help' },
    { about: 'one command, as vreg register --help', command: 'vreg help register' },
    { about: 'what the exit codes mean', command: 'vreg help exit-codes' },
  ],
  lenient: true,
  async run(context, words, { writeMan }) {
    const commands = await context.commands();
    if (writeMan !== undefined) {
      mkdirSync(writeMan, { recursive: true });
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
        throw new VregError('USAGE', `no help on "${words.join(' ')}"${suggestion(word, known)}`, {
          hint: 'see all commands: vreg help',
        });
      }
      among = found.commands ?? [];
    }
    context.io.out(found ? commandHelp(found, ['vreg', ...words.slice(0, -1), found.name]) : programHelp(commands));
  },
});
