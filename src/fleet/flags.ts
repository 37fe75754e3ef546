/** A VM's fields as flags: `--service NAME:PORT[/path]`, `--meta key=value`. */

import type { Flag } from '../command.ts';
import { VregError } from '../protocol/errors.ts';
import type { Service } from '../protocol/vm.ts';

export const SERVICE_FLAG: Flag = {
  flags: '--service <name:port>',
  about: 'service as NAME:PORT or NAME:PORT/healthPath',
  repeat: true,
};
export const META_FLAG: Flag = {
  flags: '--meta <key=value>',
  about: 'metadata; a JSON value is parsed as JSON',
  repeat: true,
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
