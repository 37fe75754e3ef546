/**
 * Other extensions of pi with the tools of the registry. pi refuses to start if two extensions have a tool of the same name. It loads
 * extensions from the files in its folders, and from the packages and paths in its settings (pi, docs/extensions.md, packages.md and
 * src/core/package-manager.ts).
 */
import { type Dirent, existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join, relative, resolve } from 'node:path';
import { readPlainFile } from '../config/json-file.ts';

/** The extension of vreg in a folder of pi. */
export const EXTENSION_FILE = 'vreg-registry.js';
/** The packages with these tools, that of vreg and that of the original registry, and the path of the extension in each. */
const PACKAGES: Readonly<Record<string, string>> = {
  vreg: 'dist/pi/registry.js',
  'vers-agent-services': 'extensions/agent-services.ts',
};
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
    const found = packages.find(({ source, patterns }) => {
      const root = absolute(source);
      const known = knownExtension(source);
      if (known !== undefined) return isSelected(join(root, known), patterns, root);
      return scriptsOfPackage(root).some((file) => isOther(file) && isSelected(file, patterns, root));
    });
    if (found)
      return {
        where: `the package ${found.source} in ${settingsFile(path)}`,
        removal: `run: pi remove${flags.pi} ${found.source}`,
      };
    const folder = join(path, 'extensions');
    const file = scriptsIn(folder).find(
      (each) => isOther(each) && isSelected(each, extensions.filter(isOverride), path),
    );
    if (file !== undefined) {
      const isOurs = basename(file) === EXTENSION_FILE;
      return {
        where: file,
        removal: isOurs ? `run: vreg setup pi${flags.setup} --only hooks --remove` : `remove it from ${folder}`,
      };
    }
    const patterns = extensions.filter(isPattern);
    const paths = extensions.filter((each) => !isPattern(each)).map(absolute);
    const other = paths.flatMap(scriptsAt).find((each) => isOther(each) && isSelected(each, patterns, path));
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

/** The source of a package, and patterns that select its extensions. */
interface Package {
  source: string;
  patterns: readonly string[];
}

/** The packages whose extensions are loaded, and the paths and patterns of extensions. */
function readSettings(folder: string): { packages: Package[]; extensions: string[] } {
  const { packages, extensions } = readJson(settingsFile(folder));
  return { packages: listOf(packages).flatMap(packageOf), extensions: listOf(extensions).filter(isString) };
}

/** A package is a source, or an object that may select some of its extensions or none. */
function packageOf(entry: unknown): Package[] {
  if (isString(entry)) return [{ source: entry, patterns: [] }];
  const { source, extensions } = (entry ?? {}) as Record<string, unknown>;
  if (!isString(source) || (Array.isArray(extensions) && extensions.length === 0)) return [];
  return [{ source, patterns: listOf(extensions).filter(isString) }];
}

/** The extension in `npm:vreg@1.2.3`, `git:github.com/hdresearch/vers-agent-services@main` or `../vreg`. */
function knownExtension(source: string): string | undefined {
  const [, name = ''] = /([^/:@]+?)(?:\.git)?(?:@[^/@]*)?\/?$/.exec(source) ?? [];
  // A scope belongs to the name of a package.
  return Object.hasOwn(PACKAGES, name) && !/^npm:@/.test(source) ? PACKAGES[name] : undefined;
}

/** `!GLOB`, `+PATH` or `-PATH`, which `pi config` writes for an extension that is not to be loaded. */
function isOverride(entry: string): boolean {
  return /^[!+-]/.test(entry);
}

function isPattern(entry: string): boolean {
  return isOverride(entry) || /[*?]/.test(entry);
}

/** Whether pi loads a file, by its rules for patterns (`applyPatterns` in its package-manager.ts). @param base of relative paths */
function isSelected(file: string, patterns: readonly string[], base: string): boolean {
  const path = relative(base, file);
  const paths = (mark: string) => patterns.filter((each) => each.startsWith(mark)).map((each) => each.slice(1));
  const isExactly = (each: string) => [path, file].includes(each.replace(/^\.\//, ''));
  const matches = (glob: string) => [path, basename(file), file].some((each) => globOf(glob).test(each));
  if (paths('-').some(isExactly)) return false;
  if (paths('+').some(isExactly)) return true;
  const included = patterns.filter((each) => !isOverride(each));
  return (included.length === 0 || included.some(matches)) && !paths('!').some(matches);
}

/** Braces and character classes have no special meaning here, in contrast to pi. */
function globOf(glob: string): RegExp {
  const parts: Readonly<Record<string, string>> = { '**/': '(?:.*/)?', '**': '.*', '*': '[^/]*', '?': '[^/]' };
  const source = glob.replaceAll(/\*\*\/|\*\*|[*?.+^$()|[\]{}\\]/g, (part) => parts[part] ?? `\\${part}`);
  return new RegExp(`^${source}$`);
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
  const listed = listOfManifest(path);
  if (listed.length > 0) {
    const found = listed.filter((each) => !isOverride(each)).flatMap((each) => pathsOf(each, path));
    return found.flatMap(scriptsAt).filter((file) => isSelected(file, listed.filter(isOverride), path));
  }
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

/** The extensions that the `package.json` of a folder lists, as far as they exist. pi evaluates patterns only in that of a package. */
function listedScripts(folder: string): string[] {
  return listOfManifest(folder)
    .map((each) => resolve(folder, each))
    .filter((path) => existsSync(path));
}

function listOfManifest(folder: string): string[] {
  const { pi } = readJson(join(folder, 'package.json'));
  const { extensions } = (pi ?? {}) as Record<string, unknown>;
  return listOf(extensions).filter(isString);
}

/** The files and folders that an entry of a package names. */
function pathsOf(entry: string, folder: string): string[] {
  if (!isPattern(entry)) return [resolve(folder, entry)];
  const glob = globOf(entry.replace(/^\.\//, ''));
  return pathsBelow(folder).filter((path) => glob.test(relative(folder, path)));
}

function pathsBelow(folder: string): string[] {
  return contentsOf(folder).flatMap((entry) => {
    if (entry.name === 'node_modules') return [];
    const path = join(folder, entry.name);
    // Not through links, which may form a cycle.
    return entry.isDirectory() ? [path, ...pathsBelow(path)] : [path];
  });
}

function entriesOf(folder: string): string[] {
  return contentsOf(folder).map(({ name }) => join(folder, name));
}

/** Empty for a folder that cannot be read. */
function contentsOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).filter(({ name }) => !name.startsWith('.'));
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
