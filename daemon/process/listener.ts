/** Finds the process that listens on a port or a unix socket, for the error message of a daemon that cannot listen there. */
import { readdirSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { readIfThere } from '../../src/files.ts';
import { printable } from '../../src/protocol/redact.ts';

export interface Listener {
  pid: number;
  /** Name of the program; `vreg` for a process of vreg. */
  name: string;
}

/** The state LISTEN in /proc/net/tcp (enum in include/net/tcp_states.h). */
const LISTEN = '0A';

/**
 * @param at a TCP port, or the path of a unix socket
 * @returns undefined if it cannot be known: on systems without /proc, or if the process belongs to another user
 */
export function findListener(at: number | string): Listener | undefined {
  const inodes = typeof at === 'number' ? tcpInodes(at) : unixInodes(at);
  if (inodes.size === 0) return undefined;
  const pid = listIfThere('/proc').find(
    (name) => /^\d+$/.test(name) && listIfThere(`/proc/${name}/fd`).some((fd) => inodes.has(inodeOf(name, fd))),
  );
  return pid === undefined ? undefined : { pid: Number(pid), name: nameOf(pid) };
}

/** Inodes of the sockets that listen on a port, on any address (proc_pid_net(5)). */
function tcpInodes(port: number): Set<string> {
  const rows = ['tcp', 'tcp6'].flatMap((file) => readIfThere(`/proc/net/${file}`)?.split('\n').slice(1) ?? []);
  const fields = rows.map((row) => row.trim().split(/\s+/));
  const isListener = ([, local, , state]: string[]) =>
    state === LISTEN && Number.parseInt(local!.split(':')[1]!, 16) === port;
  return new Set(fields.filter(isListener).map((row) => row[9]!));
}

function unixInodes(path: string): Set<string> {
  const rows = readIfThere('/proc/net/unix')?.split('\n').slice(1) ?? [];
  return new Set(rows.filter((row) => row.endsWith(` ${path}`)).map((row) => row.trim().split(/\s+/)[6]!));
}

function inodeOf(pid: string, fd: string): string {
  try {
    return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? '';
  } catch {
    return '';
  }
}

/** The name of the program only, because its arguments may contain secrets. */
function nameOf(pid: string): string {
  const script = readIfThere(`/proc/${pid}/cmdline`)?.split('\0')[1] ?? '';
  if (['vreg', 'vreg.js'].includes(basename(script))) return 'vreg';
  return printable(readIfThere(`/proc/${pid}/comm`)?.trim() ?? 'a process');
}

function listIfThere(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
