/** The error of a daemon that cannot listen because another process does. */
import { VregError } from '../../../src/protocol/errors.ts';
import { findListener, type TcpAddress } from '../../process/listener.ts';

/**
 * @param name address or path for the message
 * @param at a TCP address, or the path of a unix socket
 */
export function addressInUse(name: string, at: TcpAddress | string, cause?: unknown): VregError {
  const listener = findListener(at);
  const holder = listener ? `${listener.name} (pid ${listener.pid})` : 'another process';
  const flag = typeof at === 'string' ? '--socket' : '--port';
  const way = listener
    ? `stop it: kill ${listener.pid}`
    : `find it: ${typeof at === 'string' ? `sudo ss -lxp src ${at}` : `sudo ss -ltnp 'sport = :${at.port}'`}`;
  return new VregError('ADDRESS_IN_USE', `cannot listen on ${name}: ${holder} is listening there (EADDRINUSE)`, {
    hint: `${way}; or choose another with ${flag}`,
    cause,
  });
}
