/** Finds the process that listens on a port or a unix socket, for the error message of a daemon that cannot listen there. */
import { readdirSync, readlinkSync } from 'node:fs';
import { isIPv4 } from 'node:net';
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
/** The flag of a listening socket in /proc/net/unix (__SO_ACCEPTCON in include/linux/net.h). */
const ACCEPTS = '00010000';

/** A TCP address without a host name; `0.0.0.0` and `::` are all addresses. */
export interface TcpAddress {
  address: string;
  port: number;
}

/**
 * @param at a TCP address, or the path of a unix socket
 * @returns undefined if it cannot be known: on systems without /proc, if the process belongs to another user, or if several
 *   processes listen there
 */
export function findListener(at: TcpAddress | string): Listener | undefined {
  const inodes = typeof at === 'string' ? unixInodes(at) : tcpInodes(at);
  const processes = listIfThere('/proc').filter((name) => /^\d+$/.test(name));
  const socketsOf = new Map(
    inodes.size === 0
      ? []
      : processes.map((pid) => [pid, new Set(listIfThere(`/proc/${pid}/fd`).map((fd) => inodeOf(pid, fd)))]),
  );
  // A child that has inherited the socket has a higher pid in most cases.
  const owners = new Set([...inodes].map((inode) => processes.find((pid) => socketsOf.get(pid)?.has(inode))));
  const [pid] = owners;
  return owners.size !== 1 || pid === undefined ? undefined : { pid: Number(pid), name: nameOf(pid) };
}

/** Inodes of the sockets that listen on the address, or on all addresses (proc_pid_net(5)). */
function tcpInodes({ address, port }: TcpAddress): Set<string> {
  const wanted = canonical(address);
  const rows = ['tcp', 'tcp6'].flatMap((file) => readIfThere(`/proc/net/${file}`)?.split('\n').slice(1) ?? []);
  const fields = rows.map((row) => row.trim().split(/\s+/));
  const isListener = ([, local = '', , state]: string[]) => {
    const [hex = '', hexPort = ''] = local.split(':');
    return state === LISTEN && Number.parseInt(hexPort, 16) === port && isSameOrAll(wanted, canonical(fromHex(hex)));
  };
  return new Set(fields.filter(isListener).map((row) => row[9]!));
}

const ALL_IPV4 = '[::ffff:0:0]';
const ALL = '[::]';

/** True if sockets with these addresses cannot listen on the same port. */
function isSameOrAll(one: string, other: string): boolean {
  const isCovered = (all: string, address: string) =>
    all === ALL || (all === ALL_IPV4 && address.startsWith('[::ffff:'));
  return one === other || isCovered(one, other) || isCovered(other, one);
}

/** One spelling for each address; an IPv4 address as the IPv6 address that contains it. */
function canonical(address: string): string {
  const [ip = ''] = address.split('%');
  return new URL(`http://[${isIPv4(ip) ? `::ffff:${ip}` : ip}]`).hostname;
}

/** An address in /proc/net: hexadecimal 32-bit words, each with its least significant byte first. */
function fromHex(hex: string): string {
  const bytes = Buffer.from(hex, 'hex').swap32();
  if (bytes.length === 4) return bytes.join('.');
  return (bytes.toString('hex').match(/.{4}/g) ?? []).join(':');
}

function unixInodes(path: string): Set<string> {
  const rows = readIfThere('/proc/net/unix')?.split('\n').slice(1) ?? [];
  const fields = rows.filter((row) => row.endsWith(` ${path}`)).map((row) => row.trim().split(/\s+/));
  // The accepted connections have the same path.
  return new Set(fields.filter((row) => row[3] === ACCEPTS).map((row) => row[6]!));
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
  // The single executable, or Node and the script.
  const command = readIfThere(`/proc/${pid}/cmdline`)?.split('\0').slice(0, 2) ?? [];
  if (command.some((path) => ['vreg', 'vreg.js'].includes(basename(path)))) return 'vreg';
  return printable(readIfThere(`/proc/${pid}/comm`)?.trim() ?? 'a process');
}

function listIfThere(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
