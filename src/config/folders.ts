/** The folders of a user, by the XDG Base Directory Specification. */
import { isAbsolute, join } from 'node:path';

/** The home folder: `HOME` unless it is relative, else that of the password database, else `/`, as for a service without a user. */
export function homeFolder({ HOME }: NodeJS.ProcessEnv): string {
  if (HOME && isAbsolute(HOME)) return HOME;
  try {
    // Loaded here, because HOME is nearly always set.
    return process.getBuiltinModule('node:os').userInfo().homedir || '/';
  } catch {
    // Many containers run with a uid that has no entry in the password database.
    return '/';
  }
}

/** The folder that the variable names; undefined if it is unset, empty or relative: the specification ignores relative paths. */
export function xdgFolder(
  env: NodeJS.ProcessEnv,
  name: 'XDG_CACHE_HOME' | 'XDG_CONFIG_HOME' | 'XDG_STATE_HOME' | 'XDG_RUNTIME_DIR',
): string | undefined {
  const path = env[name];
  return path && isAbsolute(path) ? path : undefined;
}

/** `$XDG_CONFIG_HOME`, else `~/.config`. */
export function configFolder(env: NodeJS.ProcessEnv): string {
  return xdgFolder(env, 'XDG_CONFIG_HOME') ?? join(homeFolder(env), '.config');
}
