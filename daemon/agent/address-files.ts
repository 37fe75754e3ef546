/**
 * Addresses of live VMs as files, for scripts that have neither Node nor a network: `by-role/ROLE/addr`, `url` and `at`
 * (when the registry last confirmed them, in seconds since the epoch), and `env`. Each file is replaced in one step.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readIfThere, writeAtomically } from '../../src/files.ts';
import { ROLES, type Role, type Vm } from '../../src/protocol/vm.ts';

export interface AddressFilesOptions {
  dir: string;
  /** The URL of a VM. */
  urlOf(vm: Vm): string;
  /** The text of `env`, given the live VMs of each role, oldest registration first. */
  envOf(live: ReadonlyMap<Role, readonly Vm[]>): string;
  /** Milliseconds since the epoch. */
  now(): number;
}

/**
 * Writes what a list of live VMs says.
 * @param vms newest registration first, as a list answers them
 * @throws the file system's errors
 */
export function writeAddressFiles({ dir, urlOf, envOf, now }: AddressFilesOptions, vms: readonly Vm[]): void {
  const live = new Map<Role, readonly Vm[]>();
  for (const role of ROLES) live.set(role, vms.filter((vm) => vm.role === role).reverse());
  mkdirSync(dir, { recursive: true, mode: 0o755 });
  for (const [role, [oldest]] of live) {
    const folder = join(dir, 'by-role', role);
    // None is told by its files being away: what a script reads is never an address that is known to be gone.
    if (!oldest) {
      rmSync(folder, { recursive: true, force: true });
      continue;
    }
    mkdirSync(folder, { recursive: true, mode: 0o755 });
    replace(join(folder, 'addr'), toLine(oldest.address));
    replace(join(folder, 'url'), toLine(urlOf(oldest)));
    // Last, so that what it confirms is there.
    write(join(folder, 'at'), `${Math.floor(now() / 1000)}\n`);
  }
  replace(join(dir, 'env'), envOf(live));
}

/** One line, whatever somebody registered: what `read` takes from it is all there is. */
function toLine(text: string): string {
  return `${text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')}\n`;
}

/** Only what has changed is written: a file's own time then says since when it is so. */
function replace(path: string, text: string): void {
  if (readIfThere(path) !== text) write(path, text);
}

function write(path: string, text: string): void {
  writeAtomically(path, text, { mode: 0o644 });
}
