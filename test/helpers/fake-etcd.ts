/** A gRPC server with scripted answers, for servers that are no etcd, old ones, and answers that a healthy etcd never gives. */
import type { TestContext } from 'node:test';
import { Server, ServerCredentials, type ServiceError, status } from '@grpc/grpc-js';
import { MessageWriter } from '../../daemon/store/etcd/protobuf.ts';

/** The answer to a request, or an error. */
export type Answer = MessageWriter | { code: number; details: string };

export interface FakeEtcd {
  /** Paths such as `KV/Range`, with the answer to each request. */
  unary: Record<string, (request: Buffer) => Answer>;
  /** Called with each request of a watch stream. */
  watch?: (request: Buffer, send: (response: MessageWriter) => void) => void;
}

/** @returns `host:port` */
export async function serveFakeEtcd(t: TestContext, { unary, watch }: FakeEtcd): Promise<string> {
  const server = new Server();
  const same = (bytes: Buffer): Buffer => bytes;
  const codec = {
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  };
  for (const [path, answer] of Object.entries(unary)) {
    const [service, name] = path.split('/') as [string, string];
    const definition = {
      path: `/etcdserverpb.${service}/${name}`,
      requestStream: false,
      responseStream: false,
      ...codec,
    };
    server.addService(
      { [name]: definition },
      {
        [name]: (
          call: { request: Buffer },
          callback: (error: Partial<ServiceError> | null, bytes?: Buffer) => void,
        ) => {
          const result = answer(call.request);
          if (result instanceof MessageWriter) callback(null, result.finish());
          else callback(result);
        },
      },
    );
  }
  if (watch) {
    const definition = { path: '/etcdserverpb.Watch/Watch', requestStream: true, responseStream: true, ...codec };
    server.addService(
      { Watch: definition },
      {
        Watch: (call: NodeJS.ReadWriteStream) => {
          call.on('data', (request: Buffer) => watch(request, (response) => call.write(response.finish() as never)));
          call.on('error', () => {});
          call.on('end', () => call.end());
        },
      },
    );
  }
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  t.after(() => server.forceShutdown());
  return `127.0.0.1:${port}`;
}

export const unimplemented = (): Answer => ({ code: status.UNIMPLEMENTED, details: 'unknown method' });

/** A header of a cluster with the id 1. */
export function header(revision: number): MessageWriter {
  return new MessageWriter().id(1, 1n).id(2, 2n).number(3, revision).number(4, 1);
}

export function keyValue(key: string, modRevision: number, version: number, value = ''): MessageWriter {
  return new MessageWriter().bytes(1, key).number(2, 1).number(3, modRevision).number(4, version).bytes(5, value);
}
