/**
 * Writes the addresses of live VMs to files, for scripts on machines without Node or a network: `by-role/ROLE/addr`,
 * `by-role/ROLE/url`, `by-role/ROLE/at` (time of the last confirmation by the registry, in seconds since the epoch) and `env`.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { createFolder, readRegularFile, writeAtomically } from '../../src/files.ts';
import { ROLES, type Role, type Vm } from '../../src/protocol/vm.ts';
import { assertPrivate } from '../process/state-dir.ts';

export interface AddressFilesOptions {
  dir: string;
  /** @returns the URL of a VM, or the reason why it has none */
  urlOf(vm: Vm): { url?: string; fault?: Error };
  /** @returns the text of `env`, given the live VMs of each role, oldest registration first */
  envOf(live: ReadonlyMap<Role, readonly Vm[]>): string;
  /** Milliseconds since the epoch. */
  now(): number;
}

/**
 * Writes the files for a list of live VMs. Removes the files of a role without a live VM, so that a script never reads an
 * address that is known to be outdated; the same applies to the file `url` of a VM without a URL.
 * @param vms newest registration first, as the registry lists them; their addresses are valid
 * @returns a warning for each file `url` that was omitted
 * @throws the file system's errors; VregError USAGE if another user may write to a folder
 */
export function writeAddressFiles({ dir, urlOf, envOf, now }: AddressFilesOptions, vms: readonly Vm[]): string[] {
  const warnings: string[] = [];
  const live = new Map<Role, readonly Vm[]>();
  for (const role of ROLES) live.set(role, vms.filter((vm) => vm.role === role).reverse());
  createFolder(dir, 0o755);
  assertPrivate(dir, 'run-dir');
  for (const [role, [oldest]] of live) {
    const folder = join(dir, 'by-role', role);
    if (!oldest) {
      rmSync(folder, { recursive: true, force: true });
      continue;
    }
    createFolder(folder, 0o755);
    assertPrivate(folder, 'run-dir');
    writeIfChanged(join(folder, 'addr'), toLine(oldest.address));
    const { url, fault } = urlOf(oldest);
    if (url !== undefined) writeIfChanged(join(folder, 'url'), toLine(url));
    else {
      rmSync(join(folder, 'url'), { force: true });
      warnings.push(`${join(folder, 'url')} is omitted: ${fault?.message}`);
    }
    // Write `at` last: its time must not confirm an address that has not been written yet.
    write(join(folder, 'at'), `${Math.floor(now() / 1000)}\n`);
  }
  writeIfChanged(join(dir, 'env'), envOf(live));
  return warnings;
}

/** Replaces control characters, so that `read` in a script reads the complete text. */
function toLine(text: string): string {
  return `${text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')}\n`;
}

/** Does not rewrite a file with the same text, so its modification time is the time of its last change. */
function writeIfChanged(path: string, text: string): void {
  if (readRegularFile(path)?.text !== text) write(path, text);
}

function write(path: string, text: string): void {
  writeAtomically(path, text, { mode: 0o644 });
}
