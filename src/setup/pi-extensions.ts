/**
 * Other extensions of pi with the tools of the registry. pi refuses to start if two extensions have a tool of the same name. It loads
 * extensions from the files in its folders, and from the packages and paths in its settings (pi, docs/extensions.md, packages.md and
 * src/core/package-manager.ts).
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { readPlainFile } from '../config/json-file.ts';

/** The extension of vreg in a folder of pi. */
export const EXTENSION_FILE = 'vreg-registry.js';
/** Names of packages with these tools: that of vreg and that of the original registry. */
const PACKAGES = ['vreg', 'vers-agent-services'];
/** The name of a tool that both extensions have, as a string of their code. */
const TOOL = /["'`]registry_register["'`]/;
const SCRIPT = /\.[jt]s$/;
/** The main file of a folder, of which pi loads the first that exists. */
const INDEX = ['index.ts', 'index.js'];

/** A folder of pi: that of the user or of the project. */
export interface PiFolder {
  path: string;
  /** The flag of `vreg setup pi` and of `pi remove` for this folder. */
  flags: { setup: string; pi: string };
}

export interface OtherExtension {
  /** For a message. */
  where: string;
  /** How to remove it, for a hint. */
  removal: string;
}

/**
 * @param own path of the extension that is to be written, which does not count
 * @param home the home folder, which `~` names in the settings
 */
export function findOtherExtension(
  folders: readonly PiFolder[],
  own: string,
  home: string,
): OtherExtension | undefined {
  const isOther = (file: string) => file !== own && hasTools(file);
  for (const { path, flags } of folders) {
    const { packages, extensions } = readSettings(path);
    const absolute = (source: string) => resolve(path, expandHome(source, home));
    const source = packages.find((each) => isRegistry(each) || scriptsOfPackage(absolute(each)).some(isOther));
    if (source !== undefined)
      return {
        where: `the package ${source} in ${settingsFile(path)}`,
        removal: `run: pi remove${flags.pi} ${source}`,
      };
    // `pi config` writes `-PATH` for an extension that is not to be loaded. Patterns with wildcards are not evaluated.
    const disabled = extensions.filter((each) => each.startsWith('-')).map((each) => absolute(each.slice(1)));
    const isLoaded = (file: string) => isOther(file) && !disabled.includes(file);
    const folder = join(path, 'extensions');
    const file = scriptsIn(folder).find(isLoaded);
    if (file !== undefined) {
      const isOurs = basename(file) === EXTENSION_FILE;
      return {
        where: file,
        removal: isOurs ? `run: vreg setup pi${flags.setup} --only hooks --remove` : `remove it from ${folder}`,
      };
    }
    const other = extensions.map(absolute).flatMap(scriptsAt).find(isLoaded);
    if (other !== undefined) return { where: other, removal: `remove it from ${settingsFile(path)}` };
  }
  return undefined;
}

/** pi reads `~`, `~/x` and `~x` as a path below the home folder of this user, also `~x`, which a shell would read as another user's. */
export function expandHome(path: string, home: string): string {
  const trimmed = path.trim();
  return trimmed.startsWith('~') ? join(home, trimmed.slice(1)) : trimmed;
}

function settingsFile(folder: string): string {
  return join(folder, 'settings.json');
}

/** The sources of packages whose extensions are loaded, and the paths of extensions. */
function readSettings(folder: string): { packages: string[]; extensions: string[] } {
  const { packages, extensions } = readJson(settingsFile(folder));
  return { packages: listOf(packages).flatMap(sourceOf), extensions: listOf(extensions).filter(isString) };
}

/** A package is a source, or an object that may exclude its extensions. */
function sourceOf(entry: unknown): string[] {
  if (isString(entry)) return [entry];
  const { source, extensions } = (entry ?? {}) as Record<string, unknown>;
  return isString(source) && !(Array.isArray(extensions) && extensions.length === 0) ? [source] : [];
}

/** `npm:vreg@1.2.3`, `git:github.com/hdresearch/vers-agent-services@main`, `../vreg` */
function isRegistry(source: string): boolean {
  const [, name = ''] = /([^/:@]+?)(?:\.git)?(?:@[^/@]*)?\/?$/.exec(source) ?? [];
  // A scope belongs to the name of a package.
  return PACKAGES.includes(name) && !/^npm:@/.test(source);
}

/** The extensions at a path in the settings: a file, or a folder of extensions. */
function scriptsAt(path: string): string[] {
  return isFolder(path) ? scriptsIn(path) : [path];
}

/** The extensions that pi loads from a folder of extensions, which may itself be one. */
function scriptsIn(folder: string): string[] {
  const own = mainScripts(folder);
  if (own.length > 0) return own;
  return entriesOf(folder).flatMap((path) => {
    if (isFolder(path)) return mainScripts(path);
    return SCRIPT.test(path) ? [path] : [];
  });
}

/** The extensions of a package in a local folder. Without a list, they are in a folder of that name, or the package is one itself. */
function scriptsOfPackage(path: string): string[] {
  const listed = listedScripts(path);
  if (listed.length > 0) return listed.flatMap(scriptsAt);
  const folder = join(path, 'extensions');
  return scriptsAt(existsSync(folder) ? folder : path);
}

/** The files of a folder that is one extension: those that its `package.json` lists, or its index. */
function mainScripts(folder: string): string[] {
  const listed = listedScripts(folder);
  if (listed.length > 0) return listed;
  return INDEX.map((name) => join(folder, name))
    .filter((path) => existsSync(path))
    .slice(0, 1);
}

/** The extensions that the `package.json` of a folder lists, as far as they exist. Patterns are not evaluated. */
function listedScripts(folder: string): string[] {
  const { pi } = readJson(join(folder, 'package.json'));
  const { extensions } = (pi ?? {}) as Record<string, unknown>;
  return listOf(extensions)
    .filter(isString)
    .map((each) => resolve(folder, each))
    .filter((path) => existsSync(path));
}

function entriesOf(folder: string): string[] {
  try {
    const names = readdirSync(folder).filter((name) => !name.startsWith('.'));
    return names.map((name) => join(folder, name));
  } catch {
    return [];
  }
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** The content of a JSON file; empty if pi cannot read it either. */
function readJson(path: string): Record<string, unknown> {
  try {
    return (JSON.parse(readPlainFile(path, path).toString()) as Record<string, unknown> | null) ?? {};
  } catch {
    return {};
  }
}

function hasTools(file: string): boolean {
  try {
    return TOOL.test(readPlainFile(file, file).toString());
  } catch {
    // It is no file that this user can read.
    return false;
  }
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function isString(value: unknown): value is string {
  return typeof value === 'string';
}
