import { existsSync, statSync } from 'node:fs';
import { defineCommand } from '../command.ts';
import { CONTEXT_KEYS, type ConfigContent, checkConfigFile, readConfigFile } from '../config/config-content.ts';
import { changeConfigFile } from '../config/config-file.ts';
import { checkIsFile } from '../config/json-file.ts';
import { checkSetting, envNameOf, isSettingKey, SETTING_KEYS, type SettingKey, settingOf } from '../config/settings.ts';
import { suggestion, TOKEN_FILE_HINT } from '../help/suggest.ts';
import { VregError } from '../protocol/errors.ts';
import { maskName, maskRegistryUrls } from '../protocol/redact.ts';
import { openEditor } from '../run/child-process.ts';

const KEY = { name: 'key', about: 'name of a setting', values: SETTING_KEYS } as const;

const get = defineCommand({
  name: 'get',
  summary: 'print the effective value of a setting',
  arguments: [KEY],
  examples: [
    { about: 'URL of the registry', command: 'vreg config get url' },
    { about: 'with the origin of the value', command: 'vreg config get url -o json' },
    { about: 'in a script', command: 'PORT=$(vreg config get port)' },
  ],
  exits: [3],
  async run(context, [name]) {
    const key = knownKey(name!);
    const found = context.config.find(key);
    if (!found)
      throw new VregError('NOT_FOUND', `${key} is not set${fallback(key)}`, {
        field: key,
        hint: `set it: vreg config set ${key} VALUE`,
      });
    await context.print({ kind: 'value', text: found.value, data: { key, ...found } });
  },
});

const set = defineCommand({
  name: 'set',
  summary: 'write a setting to the config file',
  arguments: [KEY, { name: 'value', about: 'value of the setting', values: 'setting-value' }],
  examples: [
    { about: 'set the registry for this machine', command: 'vreg config set url http://10.0.0.5:3000' },
    { about: 'print JSON by default', command: 'vreg config set output json' },
    { about: 'path of the token file', command: 'vreg config set token-file ~/.vreg-token' },
  ],
  exits: [4],
  lenient: true,
  async run(context, [name, value]) {
    const key = knownKey(name!);
    checkSetting(key, value!);
    await changeConfigFile(context, (content) => ({ ...content, [key]: value }), key);
    const wins = context.config.given(key);
    if (wins && wins.value !== value && wins.origin !== 'config file') {
      context.note(
        `${key} was saved, but ${wins.origin} overrides it with ${key === 'url' ? maskRegistryUrls(wins.value) : wins.value}`,
      );
    }
  },
});

const unset = defineCommand({
  name: 'unset',
  summary: 'remove a setting from the config file',
  arguments: [KEY],
  examples: [
    { about: 'use the default registry again', command: 'vreg config unset url' },
    { about: 'print tables again', command: 'vreg config unset output' },
    { about: 'use no token file', command: 'vreg config unset token-file' },
  ],
  exits: [4],
  lenient: true,
  async run(context, [name]) {
    const unset = (content: ConfigContent) => {
      // An unknown key in the file can be removed too.
      const isInFile = Object.hasOwn(content, name!) && !CONTEXT_KEYS.includes(name!);
      const key = isInFile ? name! : knownKey(name!);
      const { [key]: _removed, ...rest } = content;
      return rest;
    };
    await changeConfigFile(context, unset, name!);
  },
});

const list = defineCommand<{ showOrigin?: boolean }>({
  name: 'list',
  aliases: ['ls'],
  summary: 'list all settings with their effective values',
  description: 'Lists all settings with their effective values. The token itself is never printed.',
  flags: [{ flags: '--show-origin', about: 'show where each value comes from' }],
  examples: [
    { about: 'all settings', command: 'vreg config list' },
    { about: 'with the origin of each value', command: 'vreg config list --show-origin' },
    { about: 'as JSON', command: 'vreg config list -o json' },
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
  summary: 'print the path of the config file',
  examples: [
    { about: 'path of the config file', command: 'vreg config path' },
    { about: 'print its content', command: 'cat "$(vreg config path)"' },
    { about: 'reset all settings', command: 'rm "$(vreg config path)"' },
  ],
  lenient: true,
  async run(context) {
    await context.print({ kind: 'value', text: context.config.path, data: { path: context.config.path } });
  },
});

const edit = defineCommand({
  name: 'edit',
  summary: 'open the config file in $EDITOR',
  description: 'Opens the config file in $VISUAL, $EDITOR or vi, and validates it afterwards.',
  examples: [
    { about: 'in your editor', command: 'vreg config edit' },
    { about: 'in another editor', command: 'EDITOR=nano vreg config edit' },
    { about: 'with sed instead of an editor', command: "EDITOR='sed -i s/3000/3001/' vreg config edit" },
  ],
  exits: [4],
  lenient: true,
  async run(context) {
    const { config } = context;
    if (!existsSync(config.path)) await changeConfigFile(context, (content) => content);
    // An editor could not correct it, and could wait forever for the content of a pipe.
    checkIsFile(statSync(config.path), `the config file ${config.path}`);
    await openEditor(context, config.path);
    const file = readConfigFile(config.path);
    if (file) checkConfigFile(file);
  },
});

export const config = defineCommand({
  name: 'config',
  summary: 'read and write settings',
  description:
    'Reads and writes settings. Precedence: flag, VREG_* variable, VERS_* variable, context in the config file, config file, default. A context that is named by -c counts as a flag, and one that is named by VREG_CONTEXT as a VREG_* variable.',
  examples: [
    { about: 'all settings and their origins', command: 'vreg config list --show-origin' },
    { about: 'set the registry for this machine', command: 'vreg config set url http://10.0.0.5:3000' },
    { about: 'path of the config file', command: 'vreg config path' },
  ],
  exits: [3],
  commands: [get, set, unset, list, path, edit],
});

function knownKey(name: string): SettingKey {
  if (isSettingKey(name)) return name;
  throw new VregError('USAGE', `unknown setting "${maskName(name)}"${suggestion(name, SETTING_KEYS)}`, {
    hint: name === 'token' ? TOKEN_FILE_HINT : `one of: ${SETTING_KEYS.join(', ')}`,
  });
}

/** For example ` (default: the host name; variable VREG_ID)`. */
function fallback(key: SettingKey): string {
  const { defaultIs } = settingOf(key);
  return ` (${defaultIs ? `default: ${defaultIs}; ` : ''}variable ${envNameOf(key)})`;
}
