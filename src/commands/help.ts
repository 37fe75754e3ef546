import { type Command, defineCommand } from '../command.ts';
import { commandHelp, programHelp } from '../help.ts';
import { EXIT_MEANING, VregError } from '../protocol/errors.ts';
import { envNameOf, SETTING_KEYS, settingOf } from '../settings.ts';
import { suggestion } from '../suggest.ts';

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
};

export const help = defineCommand({
  name: 'help',
  summary: 'help on a command or a topic',
  description: `Help on a command, or on a topic: ${Object.keys(TOPICS).join(', ')}.`,
  arguments: [
    { name: 'command', about: 'command or topic', optional: true, variadic: true, values: Object.keys(TOPICS) },
  ],
  examples: [
    { about: 'all commands', command: 'vreg help' },
    { about: 'one command, as vreg register --help', command: 'vreg help register' },
    { about: 'what the exit codes mean', command: 'vreg help exit-codes' },
  ],
  lenient: true,
  async run(context, words) {
    const commands = await context.commands();
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
