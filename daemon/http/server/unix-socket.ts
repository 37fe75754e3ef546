/**
 * The file of the unix socket. A client that can connect has full access, so the mode must admit only the owner of the file.
 * Root can always connect (unix(7)). Node cannot query the user of the peer (SO_PEERCRED).
 */
import { lstatSync, type Stats, statSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname, resolve } from 'node:path';
import { folderRisk, looseMode } from '../../../src/files.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { addressInUse } from './address-in-use.ts';

/**
 * Maximum length of a socket path in bytes: Linux allows 108 including the terminating zero (unix(7)), and Node truncates
 * longer paths.
 */
const MAX_PATH = 107;

/** Connections on a unix socket. Their missing address does not identify them, because closed TCP sockets have none either. */
const localSockets = new WeakSet<object>();

/** Marks all connections of a server as local. Call it before the server listens on a unix socket. */
export function markConnections(server: Server): void {
  server.prependListener('connection', (socket) => localSockets.add(socket));
}

/** True for a connection on a unix socket. */
export function isLocal(socket: object): boolean {
  return localSockets.has(socket);
}

/**
 * Checks the path of a socket before the daemon listens on it.
 * @throws VregError USAGE if the path is too long, or another user could replace the socket
 */
export function checkPlace(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes > MAX_PATH) {
    throw new VregError('USAGE', `the path of the socket is too long (${bytes} bytes, limit ${MAX_PATH}): ${path}`, {
      field: 'socket',
      hint: 'choose a shorter path, for example under $XDG_RUNTIME_DIR or /run',
    });
  }
  const folder = dirname(resolve(path));
  const risk = folderRisk(statOf(folder, path));
  if (!risk) return;
  const isOpen = 'mode' in risk;
  const who = isOpen ? `other users may write there (mode ${risk.mode})` : `another user owns it (uid ${risk.uid})`;
  throw new VregError(
    'USAGE',
    `refusing to listen on ${path}: another user could replace it in ${folder}, because ${who}`,
    {
      field: 'socket',
      hint: isOpen ? `chmod go-w ${folder}, or choose a folder of your own` : 'choose a folder of your own',
    },
  );
}

function statOf(folder: string, path: string): Stats {
  try {
    return statSync(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new VregError('LISTEN', `cannot listen on ${path}: cannot access the folder ${folder} (${code})`, {
      field: 'socket',
      hint: `create it: mkdir -p -m 700 ${folder}, or choose another with --socket`,
      cause,
    });
  }
}

/**
 * Checks the mode of a socket after the daemon has started to listen, because some file systems do not store modes.
 * @throws VregError USAGE if other users may connect
 */
export function checkClosed(path: string): void {
  const mode = looseMode(lstatSync(path).mode);
  if (mode === undefined) return;
  throw new VregError('USAGE', `other users may connect to ${path} (mode ${mode})`, {
    field: 'socket',
    hint: 'this file system does not store file modes; put the socket on one that does, for example under /run',
  });
}

/** Removes a socket file that a killed daemon left behind. Otherwise, a new daemon could not listen on it. */
export async function removeDeadSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) {
    throw new VregError('LISTEN', `cannot listen on ${path}: the path exists and is not a socket`, {
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
  // EACCES and EAGAIN also mean that a process is listening.
  if (answer !== 'ECONNREFUSED' && answer !== 'ENOENT') {
    throw addressInUse(path, path);
  }
  if (answer !== 'ENOENT') removeFile(path);
}

function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return;
    // In a folder with the sticky bit, only the owner of a file may remove it (unlink(2)).
    throw new VregError('LISTEN', `cannot listen on ${path}: a stale socket cannot be removed (${code})`, {
      hint: `find its owner: ls -l ${path}; or choose another path with --socket`,
      cause,
    });
  }
}
