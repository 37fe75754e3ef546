/**
 * Other extensions of pi with the tools of the registry. pi refuses to start if two extensions have a tool of the same name. It loads
 * extensions from the files in its folders, and from the packages and paths in its settings (pi, docs/extensions.md and packages.md).
 */
import { type Dirent, readdirSync, readFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';

/** The extension of vreg in a folder of pi. */
export const EXTENSION_FILE = 'vreg-registry.js';
/** Names of packages with these tools: that of vreg and that of the original registry. */
const PACKAGES = ['vreg', 'vers-agent-services'];
/** The name of a tool that both extensions have, as a string of their code. */
const TOOL = /["'`]registry_register["'`]/;
const SCRIPT = /\.[cm]?[jt]s$/;

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
  for (const { path, flags } of folders) {
    const { packages, extensions } = readSettings(path);
    const source = packages.find(isRegistry);
    if (source !== undefined)
      return {
        where: `the package ${source} in ${settingsFile(path)}`,
        removal: `run: pi remove${flags.pi} ${source}`,
      };
    const files = scriptsIn(join(path, 'extensions'));
    const file = files.find((each) => each !== own && hasTools(each));
    if (file !== undefined) {
      const isOurs = basename(file) === EXTENSION_FILE;
      return {
        where: file,
        removal: isOurs ? `run: vreg setup pi${flags.setup} --only hooks --remove` : 'remove that file',
      };
    }
    const named = extensions
      .map((each) => resolve(path, expandHome(each, home)))
      .flatMap((each) => [each, ...scriptsIn(each)]);
    const other = named.find((each) => each !== own && hasTools(each));
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

/** The sources of packages whose extensions are loaded, and the paths of extensions; none in a file that pi cannot read either. */
function readSettings(folder: string): { packages: string[]; extensions: string[] } {
  let settings: Record<string, unknown> | null;
  try {
    settings = JSON.parse(readFileSync(settingsFile(folder), 'utf8')) as typeof settings;
  } catch {
    settings = null;
  }
  const { packages, extensions } = settings ?? {};
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

/** The files that pi loads from a folder of extensions. */
function scriptsIn(folder: string): string[] {
  return entriesOf(folder).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (SCRIPT.test(entry.name)) return [path];
    return entriesOf(path)
      .filter(({ name }) => /^index\./.test(name) && SCRIPT.test(name))
      .map(({ name }) => join(path, name));
  });
}

function entriesOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch {
    return [];
  }
}

function hasTools(file: string): boolean {
  try {
    return TOOL.test(readFileSync(file, 'utf8'));
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
