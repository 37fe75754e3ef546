/** Calls one member of etcd over gRPC. This is the only module that knows `@grpc/grpc-js`. */
import { isIP } from 'node:net';
import { checkServerIdentity } from 'node:tls';
import type {
  ChannelCredentials,
  Client,
  ClientDuplexStream,
  ClientOptions,
  Metadata,
  VerifyOptions,
} from '@grpc/grpc-js';
import { VregError } from '../../../src/protocol/errors.ts';
import { toEtcdError } from './etcd-error.ts';
import type { EtcdTarget } from './etcd-url.ts';
import type { Method } from './messages.ts';

export type Grpc = typeof import('@grpc/grpc-js');

/** The version that the tests use. */
const GRPC_VERSION = '1.14.7';

/** Only etcd needs this package, 33 packages with its dependencies, so that npm does not install it with vreg. */
export async function loadGrpc(load: () => Promise<Grpc> = () => import('@grpc/grpc-js')): Promise<Grpc> {
  try {
    const grpc = await load();
    // It would write to stderr. Each failure is also the error of a call.
    grpc.setLogVerbosity(grpc.logVerbosity.NONE);
    return grpc;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND') throw error;
    throw new VregError('STORE_UNUSABLE', 'the store in etcd requires the package @grpc/grpc-js', {
      hint: `install it beside vreg: npm install -g @grpc/grpc-js@${GRPC_VERSION}`,
      cause: error,
    });
  }
}

const CHANNEL_OPTIONS = {
  // A member that was stopped or lost its network does not answer pings. etcd permits one every 5 s.
  'grpc.keepalive_time_ms': 5000,
  'grpc.keepalive_timeout_ms': 2000,
  // Pages and watch responses have no limit on the side of the server.
  'grpc.max_receive_message_length': -1,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  // Members are on the network of the registry; a proxy of the environment is for the web.
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  // `etcd-client.ts` decides what may be sent again.
  'grpc.enable_retries': 0,
  'grpc.use_local_subchannel_pool': 1,
};

/** A stream of requests and responses. */
export interface Duplex<Request, Response> {
  send(request: Request): void;
  /** Ends the stream; no callback is called afterwards. */
  cancel(): void;
  readonly endpoint: string;
  readonly callbacks: DuplexCallbacks<Response>;
}

export interface DuplexCallbacks<Response> {
  onResponse(response: Response): void;
  /** The stream has ended. @param error an EtcdError, also if the server ended the stream without a status */
  onEnd(error: Error): void;
}

/** A connection to one member, which gRPC opens on the first call and reopens after failures. */
export class Connection {
  readonly endpoint: string;
  readonly #grpc: Grpc;
  readonly #client: Client;

  constructor(grpc: Grpc, endpoint: string, credentials: ChannelCredentials, options: ClientOptions) {
    this.endpoint = endpoint;
    this.#grpc = grpc;
    this.#client = new grpc.Client(`dns:${endpoint}`, credentials, { ...CHANNEL_OPTIONS, ...options });
  }

  /**
   * Calls a method once.
   * @param token of the user, if there is one
   * @param timeoutMs milliseconds until the call fails
   * @throws EtcdError
   */
  call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    token: string | undefined,
    timeoutMs: number,
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        method.path,
        method.encode,
        method.decode,
        request,
        this.#metadata(token),
        { deadline: Date.now() + timeoutMs },
        (error, response) => {
          if (error) reject(toEtcdError(error, this.endpoint, method.isWrite));
          else resolve(response!);
        },
      );
    });
  }

  /** Opens a stream. Failures to connect end it. */
  stream<Request, Response>(
    method: Method<Request, Response>,
    token: string | undefined,
    callbacks: DuplexCallbacks<Response>,
  ): Duplex<Request, Response> {
    const call: ClientDuplexStream<Request, Response> = this.#client.makeBidiStreamRequest(
      method.path,
      method.encode,
      method.decode,
      this.#metadata(token),
    );
    let isOpen = true;
    const end = (error: unknown): void => {
      if (!isOpen) return;
      isOpen = false;
      callbacks.onEnd(toEtcdError(error, this.endpoint, method.isWrite));
    };
    call.on('data', (response: Response) => {
      if (isOpen) callbacks.onResponse(response);
    });
    call.on('error', end);
    // A member without a leader ends streams without a status.
    call.on('end', () => end({ code: this.#grpc.status.UNAVAILABLE, message: 'the member has closed the stream' }));
    return {
      endpoint: this.endpoint,
      callbacks,
      send: (request) => {
        if (isOpen) call.write(request);
      },
      cancel: () => {
        isOpen = false;
        call.cancel();
      },
    };
  }

  close(): void {
    this.#client.close();
  }

  #metadata(token: string | undefined): Metadata {
    const metadata = new this.#grpc.Metadata();
    // A member that has lost its leader refuses calls and ends watches, instead of serving a part of the cluster.
    metadata.set('hasleader', 'true');
    if (token !== undefined) metadata.set('token', token);
    return metadata;
  }
}

/**
 * Opens a connection to each member on the first call.
 * @throws VregError STORE_UNUSABLE if the certificates cannot be used
 */
export function connectTo(grpc: Grpc, { endpoints, tls }: EtcdTarget): Connection[] {
  if (!tls) return endpoints.map((endpoint) => new Connection(grpc, endpoint, grpc.credentials.createInsecure(), {}));
  try {
    return endpoints.map((endpoint) => {
      const { verify, options } = nameOptions(endpoint);
      const credentials = grpc.credentials.createSsl(tls.ca ?? null, tls.key ?? null, tls.cert ?? null, verify);
      return new Connection(grpc, endpoint, credentials, options);
    });
  } catch (error) {
    throw new VregError('STORE_UNUSABLE', `cannot use the certificates for etcd: ${(error as Error).message}`, {
      hint: 'check that --etcd-ca, --etcd-cert and --etcd-key are PEM files that belong together',
      cause: error,
    });
  }
}

/** grpc-js sends an IP address as the server name of TLS, which Node warns about: RFC 6066 permits only names. */
function nameOptions(endpoint: string): { verify: VerifyOptions; options: ClientOptions } {
  const host = endpoint.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
  if (isIP(host) === 0) return { verify: {}, options: {} };
  return {
    verify: { checkServerIdentity: (_name, certificate) => checkServerIdentity(host, certificate) },
    options: { 'grpc.ssl_target_name_override': 'etcd' },
  };
}
