/** Recognizes addresses that only this machine can reach. */
import { BlockList, isIP } from 'node:net';

/** True if only this machine can reach the address. Does not resolve names: of these, only `localhost` is loopback. */
export function isLoopback(host: string): boolean {
  const family = isIP(host);
  return family === 0 ? host === 'localhost' : LOOPBACK.check(host, family === 6 ? 'ipv6' : 'ipv4');
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');
