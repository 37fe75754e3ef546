/** Flags that several commands share: which live VM to look up, and a VM's fields (`--service NAME:PORT`, `--meta key=value`). */
import type { Flag } from '../command.ts';
import { VregError } from '../protocol/errors.ts';
import { ROLES, type Service } from '../protocol/vm.ts';
import { URL_SCHEMES } from './vm-url.ts';

export const PICKS = ['first', 'newest', 'random'] as const;
export type Pick = (typeof PICKS)[number];

export const ROLE_ARGUMENT = {
  name: 'role',
  about: 'role of the VM, or several separated by commas',
  values: ROLES,
} as const;
export const HAS_SERVICE_FLAG: Flag = {
  flags: '--service <name>',
  about: 'only VMs with this service',
  values: 'services',
};
export const STRICT_FLAG: Flag = {
  flags: '--strict',
  about: 'fail with exit code 10 if the answer may include dead VMs',
};
export const TRUST_FLAGS: readonly Flag[] = [
  { flags: '--passing', about: 'only VMs whose service passes its health checks (requires --service)' },
  STRICT_FLAG,
];
export const PICK_FLAG: Flag = {
  flags: '--pick <which>',
  about: 'which live VM to pick (default: first, the oldest registration)',
  values: PICKS,
};
export const MAX_STALE_FLAG: Flag = {
  flags: '--max-stale <duration>',
  about: "if the registry is unreachable, use the agent's cached answer up to this age",
};
export const SCHEME_FLAG: Flag = {
  flags: '--scheme <scheme>',
  about: 'scheme of the URL (default: the protocol of the service)',
  values: URL_SCHEMES,
};
export const WAIT_FLAG: Flag = { flags: '--wait <duration>', about: 'wait up to this long for a live VM, e.g. 30s' };

export const SERVICE_FLAG: Flag = {
  flags: '--service <name:port>',
  about: 'service as NAME:PORT or NAME:PORT/healthPath',
  repeat: true,
  values: 'service-ports',
};
export const META_FLAG: Flag = {
  flags: '--meta <key=value>',
  about: 'metadata; a JSON value is parsed as JSON',
  repeat: true,
  values: 'metadata',
};

export const WHILE_PID_FLAG: Flag = {
  flags: '--while-pid <pid>',
  about: 'run until the process with this pid has exited',
};

/** @throws VregError USAGE */
export function parsePid(text: string): number {
  // The highest pid of Linux is 2^22 (proc(5), pid_max).
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new VregError('USAGE', `invalid --while-pid "${text}"`, {
    field: 'while-pid',
    hint: 'use the pid of a running process, e.g. $PPID',
  });
}

export const META_COLUMNS_FLAG: Flag = {
  flags: '-L, --meta-columns <key>',
  about: 'metadata keys to show as columns, separated by commas',
  list: true,
  values: 'metadata-keys',
};

/** @throws VregError USAGE */
export function parseServiceFlag(text: string): Service {
  const [, name, port, healthPath] = /^([^:]+):(\d+)(\/.*)?$/.exec(text) ?? [];
  if (name === undefined || Number(port) < 1 || Number(port) > 65_535) {
    throw new VregError('USAGE', `invalid --service "${text}"`, {
      field: 'service',
      hint: 'use NAME:PORT or NAME:PORT/healthPath, for example api:3001/health (ports 1 to 65535)',
    });
  }
  return { name, port: Number(port), ...(healthPath === undefined ? {} : { healthPath }) };
}

/** @throws VregError USAGE */
export function parseMetaFlags(texts: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=');
      if (at < 1) {
        throw new VregError('USAGE', `invalid --meta "${text}"`, {
          field: 'meta',
          hint: 'use KEY=VALUE, for example task=billing',
        });
      }
      return [text.slice(0, at), readJson(text.slice(at + 1))];
    }),
  );
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
