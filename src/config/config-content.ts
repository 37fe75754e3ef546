/** The content of the config file: which keys it may have, and where a fault is. */
import { suggestion } from '../help/suggest.ts';
import { VregError } from '../protocol/errors.ts';
import { maskName } from '../protocol/redact.ts';
import { isObject, type JsonFile, placeOf, readJsonFile } from './json-file.ts';
import { checkSetting, isSettingKey, SETTING_KEYS } from './settings.ts';

/** Written by hand or by `vreg config set`. */
export interface ConfigContent {
  context?: string;
  contexts?: Record<string, Record<string, unknown>>;
  [key: string]: unknown;
}

/** Keys besides the settings. */
export const CONTEXT_KEYS: readonly string[] = ['context', 'contexts'];

/** Reads the file without checking its keys. @throws VregError USAGE if it is not a JSON object */
export function readConfigFile(path: string): JsonFile | undefined {
  return readJsonFile(path, 'the config file', 'fix it: vreg config edit');
}

/**
 * Checks the keys, and the types of their values. A setting is checked when it is used, so that an invalid one can be replaced.
 * @param except a top-level key that is not checked, because its member is about to be replaced or removed
 * @throws VregError USAGE naming the first fault and its place
 */
export function checkConfigKeys(file: JsonFile, except?: string): ConfigContent {
  const { context, contexts = {}, ...settings } = file.content;
  if (except !== undefined) delete settings[except];
  if (context !== undefined && typeof context !== 'string') throw wrongType(file, ['context'], 'a string');
  if (!isObject(contexts)) throw wrongType(file, ['contexts'], 'an object');
  checkKeys(file, [], settings, [...SETTING_KEYS, ...CONTEXT_KEYS]);
  for (const [name, values] of Object.entries(contexts)) {
    if (!isObject(values)) throw wrongType(file, ['contexts', name], 'an object');
    checkKeys(file, ['contexts', name], values, SETTING_KEYS);
  }
  return file.content as ConfigContent;
}

/** Checks the keys and all values. @throws VregError USAGE naming the first fault and its place */
export function checkConfigFile(file: JsonFile): void {
  const { context: _context, contexts = {}, ...settings } = checkConfigKeys(file);
  checkValues(file, [], settings);
  for (const [name, values] of Object.entries(contexts)) checkValues(file, ['contexts', name], values);
}

function checkKeys(file: JsonFile, at: string[], values: Record<string, unknown>, known: readonly string[]): void {
  for (const [key, value] of Object.entries(values)) {
    if (!isSettingKey(key)) {
      const place = placeOf(file, [...at, key], 'name');
      throw new VregError('USAGE', `unknown setting "${maskName(key)}" (in ${place})${suggestion(key, known)}`, {
        hint: 'correct or remove it: vreg config edit',
      });
    }
    if (!['string', 'number', 'boolean'].includes(typeof value))
      throw wrongType(file, [...at, key], 'a string, a number or a boolean');
  }
}

function checkValues(file: JsonFile, at: string[], values: Record<string, unknown>): void {
  for (const [key, value] of Object.entries(values))
    if (isSettingKey(key)) checkSetting(key, String(value), ` (in ${placeOf(file, [...at, key], 'value')})`);
}

function wrongType(file: JsonFile, keys: readonly string[], wanted: string): VregError {
  const name = maskName(keys.at(-1)!);
  return new VregError('USAGE', `"${name}" is not ${wanted} (in ${placeOf(file, keys, 'value')})`, {
    hint: 'correct it: vreg config edit',
  });
}
