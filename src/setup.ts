/**
 * The files of coding agents that `vreg setup` changes: the MCP server, the skill, and the hooks or the extension. None of them contains
 * a token.
 */
import { isUtf8 } from 'node:buffer';
import { lstatSync, readlinkSync, realpathSync, rmdirSync, rmSync } from 'node:fs';
import { dirname, join, resolve, sep } from 'node:path';
import { homeFolder } from './config/folders.ts';
import { readPlainFile } from './config/json-file.ts';
import { createFolder, writeAtomically } from './files.ts';
import { VregError } from './protocol/errors.ts';
import { type Change, invalid } from './setup/change.ts';
import { addEntries, type JsonEntry, removeEntries } from './setup/json-entries.ts';
import { removeOwned, writeOwned } from './setup/owned-file.ts';
import {
  EXTENSION_FILE,
  expandHome,
  findOtherExtension,
  type OtherExtension,
  type PiFolder,
} from './setup/pi-extensions.ts';
import { addServer, removeServer } from './setup/toml-table.ts';
import { SKILL_NAME } from './skill.ts';

export type Program = 'claude' | 'codex' | 'pi';
export type Part = 'mcp' | 'skill' | 'hooks';

export interface SetupOptions {
  program: Program;
  parts: readonly Part[];
  /** Change the files in this folder, not those of the user. */
  isProject: boolean;
  folder: string;
  remove: boolean;
  env: NodeJS.ProcessEnv;
  /** The text of the skill. */
  skill: string;
  /** The extension for pi, a JavaScript file. */
  extension: string;
}

export interface Step {
  part: Part;
  path: string;
  action: 'create' | 'change' | 'remove' | 'unchanged' | 'keep' | 'skip';
  /** Somebody has edited the file or an entry in it, which stays as it is. */
  isEdited: boolean;
  /** The reason to skip it. */
  obstacle?: VregError | undefined;
  /** The new content; undefined to remove the file. */
  text: string | undefined;
  /** The folder of the user, the project or the program. Folders below it that are empty after a removal are removed too. */
  root: string;
}

/** Name of the MCP server. */
const SERVER = 'registry';
const COMMAND = { command: 'vreg', args: ['mcp'] };
/** Seconds after which the coding agent ends the hook, which takes at most three. */
const HOOK_TIMEOUT = 10;

/** One file, and how it changes. */
interface Target {
  part: Part;
  path: string;
  change(before: string | undefined): Change;
}

/** Plans the changes without making one. @throws VregError USAGE if a file is invalid or cannot be read */
export function planSetup(options: SetupOptions): Step[] {
  const { CLAUDE_CONFIG_DIR, CODEX_HOME } = options.env;
  const roots = [CLAUDE_CONFIG_DIR, CODEX_HOME, givenPiFolder(options), rootOf(options)];
  return targetsOf(options)
    .filter(({ part }) => options.parts.includes(part))
    .map(({ part, path, change }) => {
      const before = readText(path);
      const { text, isEdited, obstacle } = applyEdit(path, () => change(before));
      const root = roots.find((folder) => folder && isBelow(resolve(path), resolve(folder)))!;
      if (obstacle) return { part, path, text, root, isEdited, obstacle, action: 'skip' };
      return {
        part,
        path,
        text,
        root,
        isEdited,
        action: isEdited && text === before ? 'keep' : actionOf(before, text),
      };
    });
}

/** The parsers are recursive. @throws VregError USAGE if a file has too many levels for them */
function applyEdit(path: string, edit: () => Change): Change {
  try {
    return edit();
  } catch (error) {
    if (error instanceof RangeError) throw invalid(path, 'is nested too deeply');
    throw error;
  }
}

function isBelow(path: string, folder: string): boolean {
  return path.startsWith(folder.endsWith(sep) ? folder : folder + sep);
}

function rootOf({ isProject, folder, env }: SetupOptions): string {
  return isProject ? folder : homeFolder(env);
}

function actionOf(before: string | undefined, after: string | undefined): Step['action'] {
  if (before === after) return 'unchanged';
  if (after === undefined) return 'remove';
  return before === undefined ? 'create' : 'change';
}

/** Applies the steps in order until one fails. @returns the steps that were applied, and why the next one was not */
export function applySteps(steps: readonly Step[]): { done: Step[]; failure?: VregError } {
  const done: Step[] = [];
  for (const step of steps) {
    try {
      applyStep(step);
    } catch (error) {
      if (!(error instanceof VregError)) throw error;
      return { done, failure: error };
    }
    done.push(step);
  }
  return { done };
}

/** Writes or removes the file. Follows symbolic links, and leaves the mode as it is. @throws VregError USAGE */
function applyStep({ path, action, text, root }: Step): void {
  if (action === 'unchanged' || action === 'keep' || action === 'skip') return;
  const real = targetOfLink(path);
  try {
    if (text === undefined) {
      rmSync(real);
      removeEmptyFolders(dirname(resolve(path)), resolve(root));
    } else {
      createFolder(dirname(real));
      // Two runs at the same time must not write to one temporary file.
      writeAtomically(real, text, { keepMode: true, sync: true, draft: `${real}.vreg-${process.pid}` });
    }
  } catch (cause) {
    throw unusable('write', path, cause);
  }
}

/** Removes a folder and its parents as long as they are empty, and `root` never. */
function removeEmptyFolders(folder: string, root: string): void {
  if (folder === root) return;
  try {
    rmdirSync(folder);
  } catch {
    // It contains other files.
    return;
  }
  removeEmptyFolders(dirname(folder), root);
}

function targetsOf(options: SetupOptions): Target[] {
  const { program, isProject, env, remove, skill, extension } = options;
  const root = rootOf(options);
  const folder = (name: string, variable: string | undefined) =>
    isProject ? join(root, name) : variable || join(root, name);
  const entries = (path: string, part: Part, wanted: readonly JsonEntry[]): Target => ({
    part,
    path,
    change: (before) => (remove ? removeEntries(path, before, wanted) : addEntries(path, before, wanted)),
  });
  const page = (base: string): Target => ({
    part: 'skill',
    path: join(base, 'skills', SKILL_NAME, 'SKILL.md'),
    change: (before) => (remove ? removeOwned(before) : writeOwned(before, skill, 'markdown')),
  });
  switch (program) {
    case 'claude': {
      const base = folder('.claude', env.CLAUDE_CONFIG_DIR);
      const userFile = join(env.CLAUDE_CONFIG_DIR || root, '.claude.json');
      const servers = isProject ? join(root, '.mcp.json') : userFile;
      const server = { path: ['mcpServers', SERVER], value: { type: 'stdio', ...COMMAND } };
      return [
        entries(servers, 'mcp', [server]),
        page(base),
        entries(join(base, 'settings.json'), 'hooks', [hookOf('SessionStart', 'start'), hookOf('SessionEnd', 'stop')]),
      ];
    }
    case 'codex': {
      const base = folder('.codex', env.CODEX_HOME);
      const config = join(base, 'config.toml');
      const change = remove ? removeServer : addServer;
      return [
        { part: 'mcp', path: config, change: (before) => change(config, before, SERVER, COMMAND) },
        page(folder('.agents', undefined)),
        // Codex has no event at the end of a session.
        entries(join(base, 'hooks.json'), 'hooks', [hookOf('SessionStart', 'start')]),
      ];
    }
    case 'pi': {
      const [ofUser, ofProject] = piFolders(options);
      const base = (isProject ? ofProject : ofUser).path;
      const path = join(base, 'extensions', EXTENSION_FILE);
      const change = (before: string | undefined): Change => {
        if (remove) return removeOwned(before);
        const other = findOtherExtension([ofUser, ofProject], path, homeFolder(env));
        if (other) return { text: before, isEdited: false, obstacle: presentTwice(other, path) };
        return writeOwned(before, extension, 'script');
      };
      // pi has neither MCP servers nor commands as hooks. The extension has the tools, and does what the hooks do.
      return [page(base), { part: 'hooks', path, change }];
    }
  }
}

/** The folder of the user's files for pi, if its variable names one. pi expands `~` in it. */
function givenPiFolder({ env }: SetupOptions): string | undefined {
  const { PI_CODING_AGENT_DIR } = env;
  return PI_CODING_AGENT_DIR && expandHome(PI_CODING_AGENT_DIR, homeFolder(env));
}

/** The folders from which pi loads extensions. */
function piFolders(options: SetupOptions): [ofUser: PiFolder, ofProject: PiFolder] {
  const ofUser = givenPiFolder(options) || join(homeFolder(options.env), '.pi/agent');
  return [
    { path: ofUser, flags: { setup: '', pi: '' } },
    { path: join(options.folder, '.pi'), flags: { setup: ' --project', pi: ' -l' } },
  ];
}

function presentTwice({ where, removal }: OtherExtension, path: string): VregError {
  const message = `pi does not start with two extensions that have the tools of the registry, and there is another one: ${where}; so ${path} was skipped`;
  return new VregError('CONFLICT', message, {
    hint: `to use that of vreg setup, first ${removal}; to use the other one, run: vreg setup pi --only skill`,
  });
}

function hookOf(event: string, name: 'start' | 'stop'): JsonEntry {
  const command = `vreg hook ${name}`;
  const runs = (hook: unknown) => {
    const { command: line } = (hook ?? {}) as { command?: unknown };
    return typeof line === 'string' && new RegExp(`\\b${command}\\b`).test(line);
  };
  return {
    path: ['hooks', event],
    value: { hooks: [{ type: 'command', command, timeout: HOOK_TIMEOUT }] },
    isOwnElement: (group) => {
      const { hooks } = (group ?? {}) as { hooks?: unknown };
      return Array.isArray(hooks) && hooks.some(runs);
    },
  };
}

/** @throws VregError USAGE if the file cannot be read, or is not UTF-8, because a change would damage other characters */
function readText(path: string): string | undefined {
  let bytes: Buffer;
  try {
    bytes = readPlainFile(path, path);
  } catch (cause) {
    if (cause instanceof VregError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw unusable('read', path, cause);
  }
  if (!isUtf8(bytes)) throw invalid(path, 'is not encoded in UTF-8');
  return bytes.toString('utf8');
}

/** The file that a symbolic link names, also through further links, and if that file does not exist yet. */
function targetOfLink(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    const isLink = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink();
    // A cycle of links was refused when the file was read.
    return isLink ? targetOfLink(resolve(dirname(path), readlinkSync(path))) : path;
  }
}

function unusable(action: 'read' | 'write', path: string, cause: unknown): VregError {
  return new VregError('USAGE', `cannot ${action} ${path} (${(cause as NodeJS.ErrnoException).code})`, {
    hint: `check the owner and the mode: ls -ld ${dirname(path)} ${path}`,
    cause,
  });
}
