/**
 * The parts of undici that a registry client needs, by their own paths. The entire package takes twice as long to load, because
 * it includes fetch, WebSocket, caches and mocks.
 */
declare module 'undici/lib/dispatcher/pool.js' {
  export { Pool as default } from 'undici';
}
declare module 'undici/lib/core/connect.js' {
  import type { Socket } from 'node:net';
  import type { buildConnector } from 'undici';

  /** In contrast to the published type, the function returns its socket. */
  export type Connect = (...parameters: Parameters<buildConnector.connector>) => Socket;
  export default function build(options: buildConnector.BuildOptions): Connect;
}
declare module 'undici/lib/api/api-request.js' {
  import type { Dispatcher } from 'undici';

  const request: Dispatcher['request'];
  export default request;
}
