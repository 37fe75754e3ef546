import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { defineCommand } from '../command.ts';
import { openConfigFile } from '../config/config-file.ts';
import { checkSetting, envNameOf, isSettingKey, SETTING_KEYS, type SettingKey, settingOf } from '../config/settings.ts';
import { Config } from '../config.ts';
import { suggestion } from '../help/suggest.ts';
import { VregError } from '../protocol/errors.ts';
import { maskName, maskRegistryUrl } from '../protocol/redact.ts';
import { openEditor } from '../run/editor.ts';

const KEY = { name: 'key', about: 'name of a setting', values: SETTING_KEYS } as const;

const get = defineCommand({
  name: 'get',
  summary: 'print the value that a setting has now',
  arguments: [KEY],
  examples: [
    { about: 'which registry?', command: 'vreg config get url' },
    { about: 'with its origin', command: 'vreg config get url -o json' },
    { about: 'as a script', command: 'PORT=$(vreg config get port)' },
  ],
  exits: [3],
  async run(context, [name]) {
    const key = knownKey(name!);
    const found = context.config.find(key);
    if (!found)
      throw new VregError('NOT_FOUND', `${key} is not set${note(key)}`, {
        field: key,
        hint: `set it: vreg config set ${key} VALUE`,
      });
    await context.print({ kind: 'value', text: found.value, data: { key, ...found } });
  },
});

const set = defineCommand({
  name: 'set',
  summary: 'write a setting into the config file',
  arguments: [KEY, { name: 'value', about: 'its value' }],
  examples: [
    { about: 'the registry of this machine', command: 'vreg config set url http://10.0.0.5:3000' },
    { about: 'always JSON', command: 'vreg config set output json' },
    { about: 'where the token is', command: 'vreg config set token-file ~/.vreg-token' },
  ],
  lenient: true,
  async run(context, [name, value]) {
    const key = knownKey(name!);
    checkSetting(key, value!);
    const file = await openConfigFile(context);
    const wins = context.config.given(key);
    file.set(key, value);
    if (wins && wins.value !== value && wins.origin !== 'config file') {
      context.note(
        `${key} is written, but ${wins.origin} wins with ${key === 'url' ? maskRegistryUrl(wins.value) : wins.value}`,
      );
    }
  },
});

const unset = defineCommand({
  name: 'unset',
  summary: 'take a setting out of the config file',
  arguments: [KEY],
  examples: [
    { about: 'back to the default registry', command: 'vreg config unset url' },
    { about: 'tables again', command: 'vreg config unset output' },
    { about: 'no token file', command: 'vreg config unset token-file' },
  ],
  lenient: true,
  async run(context, [name]) {
    (await openConfigFile(context)).delete(knownKey(name!));
  },
});

const list = defineCommand<{ showOrigin?: boolean }>({
  name: 'list',
  aliases: ['ls'],
  summary: 'list all settings and what they are now',
  description: 'Lists all settings and what they are now. The token itself is never shown.',
  flags: [{ flags: '--show-origin', about: 'say where each value comes from' }],
  examples: [
    { about: 'what is in force', command: 'vreg config list' },
    { about: 'and who said so', command: 'vreg config list --show-origin' },
    { about: 'for programs', command: 'vreg config list -o json' },
  ],
  async run(context, _args, { showOrigin }) {
    const rows = SETTING_KEYS.map((key) => {
      const found = context.config.find(key);
      return {
        key,
        value: found?.value ?? null,
        origin: found?.origin ?? (settingOf(key).defaultIs ? 'default' : 'not set'),
      };
    });
    const value = {
      title: 'VALUE',
      cell: ({ key, value }: (typeof rows)[number]) => value ?? settingOf(key).defaultIs ?? '-',
    };
    await context.print({
      kind: 'rows',
      rows,
      columns: [
        { title: 'KEY', cell: ({ key }) => key },
        value,
        ...(showOrigin || context.format === 'wide'
          ? [{ title: 'ORIGIN', cell: ({ origin }: (typeof rows)[number]) => origin }]
          : []),
      ],
      name: ({ key }) => key,
    });
  },
});

const path = defineCommand({
  name: 'path',
  summary: 'print where the config file is',
  examples: [
    { about: 'where is it?', command: 'vreg config path' },
    { about: 'what is in it?', command: 'cat "$(vreg config path)"' },
    { about: 'start over', command: 'rm "$(vreg config path)"' },
  ],
  lenient: true,
  async run(context) {
    await context.print({ kind: 'value', text: context.config.path, data: { path: context.config.path } });
  },
});

const edit = defineCommand({
  name: 'edit',
  summary: 'open the config file in $EDITOR',
  description: 'Opens the config file in $VISUAL, $EDITOR or vi, and checks it afterwards.',
  examples: [
    { about: 'with your editor', command: 'vreg config edit' },
    { about: 'with another', command: 'EDITOR=nano vreg config edit' },
    { about: 'with a program', command: "EDITOR='sed -i s/3000/3001/' vreg config edit" },
  ],
  lenient: true,
  async run(context) {
    const { config } = context;
    mkdirSync(config.dir, { recursive: true, mode: 0o700 });
    if (!existsSync(config.path)) writeFileSync(config.path, '{}\n', { mode: 0o600 });
    await openEditor(context, config.path);
    for (const [key, value] of Object.entries(new Config(context.env).file)) {
      if (key === 'context' || key === 'contexts') continue;
      checkSetting(knownKey(key, ` (in ${config.path})`), String(value), ` (in ${config.path})`);
    }
  },
});

export const config = defineCommand({
  name: 'config',
  summary: 'read and write settings',
  description:
    'Reads and writes settings. A flag wins over VREG_* variables, they over VERS_* variables, they over the context in use and the rest of the config file, and all over the default; a context that -c names counts as a flag, one that VREG_CONTEXT names as a VREG_* variable.',
  examples: [
    { about: 'what is in force, and why', command: 'vreg config list --show-origin' },
    { about: 'the registry of this machine', command: 'vreg config set url http://10.0.0.5:3000' },
    { about: 'where the file is', command: 'vreg config path' },
  ],
  exits: [3],
  commands: [get, set, unset, list, path, edit],
});

function knownKey(name: string, where = ''): SettingKey {
  if (isSettingKey(name)) return name;
  throw new VregError('USAGE', `there is no setting "${maskName(name)}"${where}${suggestion(name, SETTING_KEYS)}`, {
    hint: `one of: ${SETTING_KEYS.join(', ')}`,
  });
}

function note(key: SettingKey): string {
  const { defaultIs } = settingOf(key);
  return `${defaultIs ? `; it is ${defaultIs}` : ''} (variable ${envNameOf(key)})`;
}
