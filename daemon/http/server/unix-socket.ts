/**
 * The file of the unix socket. A client that can connect has full access, so the file's mode must admit only its owner (and root,
 * whom no mode stops; see unix(7)). Node cannot ask for the peer's user (SO_PEERCRED).
 */
import { lstatSync, type Stats, statSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname, resolve } from 'node:path';
import { folderRisk, looseMode } from '../../../src/files.ts';
import { VregError } from '../../../src/protocol/errors.ts';

/** Bytes of a socket's path: Linux has room for 108 with the zero at the end (unix(7)), and Node cuts what is longer. */
const MAX_PATH = 107;

/** Connections that came by a unix socket. An address does not tell: one that was cut has none, either. */
const local = new WeakSet<object>();

/** Called of a server that listens on a unix socket, before it does. */
export function markConnections(server: Server): void {
  server.prependListener('connection', (socket) => local.add(socket));
}

/** True of a connection that came by a unix socket. */
export function isLocal(socket: object): boolean {
  return local.has(socket);
}

/**
 * Checks where a socket shall be, before it is there.
 * @throws VregError USAGE when the path is too long, or somebody else could put another socket in its place
 */
export function checkPlace(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes > MAX_PATH) {
    throw new VregError('USAGE', `the path of the socket is too long: ${bytes} bytes, at most ${MAX_PATH}: ${path}`, {
      field: 'socket',
      hint: 'choose a shorter one, for example below $XDG_RUNTIME_DIR or /run',
    });
  }
  const folder = dirname(resolve(path));
  const risk = folderRisk(statOf(folder, path));
  if (!risk) return;
  const isOpen = 'mode' in risk;
  const who = isOpen ? `others may write there (mode ${risk.mode})` : `another user owns it (uid ${risk.uid})`;
  throw new VregError('USAGE', `refusing to listen on ${path}: somebody could replace it in ${folder}, since ${who}`, {
    field: 'socket',
    hint: isOpen ? `chmod go-w ${folder}, or choose a folder of your own` : 'choose a folder of your own',
  });
}

function statOf(folder: string, path: string): Stats {
  try {
    return statSync(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new VregError('LISTEN', `cannot listen on ${path} (${code}): ${folder} is no folder that can be used`, {
      hint: `make it: mkdir -p -m 700 ${folder}, or choose another with --socket`,
      cause,
    });
  }
}

/**
 * Checks a socket that is listened on: a file system may not keep modes.
 * @throws VregError USAGE when others than its owner may connect
 */
export function checkClosed(path: string): void {
  const mode = looseMode(lstatSync(path).mode);
  if (mode === undefined) return;
  throw new VregError('USAGE', `others may connect to ${path} (mode ${mode})`, {
    field: 'socket',
    hint: 'its file system keeps no modes: choose a folder on another, for example below /run',
  });
}

/** A socket file that a killed daemon left behind would keep a new one from listening. */
export async function removeDeadSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) {
    throw new VregError('LISTEN', `cannot listen on ${path}: a file that is no socket is there`, {
      hint: 'choose another path with --socket',
    });
  }
  const answer = await new Promise<string | undefined>((resolve) => {
    const probe = connect(path);
    probe.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code));
    probe.once('connect', () => {
      probe.destroy();
      resolve('alive');
    });
  });
  // What may not be asked (EACCES), or has no time just now (EAGAIN), is somebody's.
  if (answer !== 'ECONNREFUSED' && answer !== 'ENOENT') {
    throw new VregError('LISTEN', `cannot listen on ${path}: a process listens there already`, {
      hint: 'choose another with --socket, or see who runs: vreg daemon status',
    });
  }
  if (answer !== 'ENOENT') removeFile(path);
}

function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return;
    // As in a folder with the sticky bit, where only its owner may remove it (unlink(2)).
    throw new VregError('LISTEN', `cannot listen on ${path}: a dead socket is there that cannot be removed (${code})`, {
      hint: `is it another user's? see whose: ls -l ${path}, or choose another path with --socket`,
      cause,
    });
  }
}
