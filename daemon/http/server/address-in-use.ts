/** The error of a daemon that cannot listen because another process does. */
import { VregError } from '../../../src/protocol/errors.ts';
import { findListener } from '../../process/listener.ts';

/**
 * @param name address or path for the message
 * @param at a TCP port, or the path of a unix socket
 */
export function addressInUse(name: string, at: number | string, cause?: unknown): VregError {
  const listener = findListener(at);
  const holder = listener ? `${listener.name} (pid ${listener.pid})` : 'another process';
  const flag = typeof at === 'number' ? '--port' : '--socket';
  const way = !listener
    ? `find it: ${typeof at === 'number' ? `sudo ss -ltnp 'sport = :${at}'` : `sudo ss -lxp src ${at}`}`
    : listener.name === 'vreg'
      ? 'stop it: vreg daemon stop'
      : `stop it: kill ${listener.pid}`;
  return new VregError('ADDRESS_IN_USE', `cannot listen on ${name}: ${holder} is listening there (EADDRINUSE)`, {
    hint: `${way}; or choose another with ${flag}`,
    cause,
  });
}
