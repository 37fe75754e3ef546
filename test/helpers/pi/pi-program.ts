/**
 * A program in place of pi: loads the extension that its argument names, with the methods of pi's extension API, and does what the test
 * asks over IPC. Like pi, it converts errors of tools and of event handlers to results, and ends when nothing keeps it running.
 */
import { EventEmitter } from 'node:events';
import type { PiApi, PiHandler, PiTool } from '../../../src/plugin/pi/pi-api.ts';

export type PiRequest =
  | { kind: 'fire'; event: string }
  | { kind: 'emit'; channel: string; data: unknown }
  | { kind: 'call'; tool: string; params: unknown }
  | { kind: 'tools' }
  | { kind: 'leave' };

export type PiMessage = { id: number; result: unknown } | { id: number; error: string } | { status: string | null };

const handlers = new Map<string, PiHandler[]>();
const tools = new Map<string, PiTool>();
const bus = new EventEmitter();
const send = (message: PiMessage) => void (process.connected && process.send!(message));

const pi: PiApi = {
  on: (event, handler) => void handlers.set(event, [...(handlers.get(event) ?? []), handler]),
  registerTool: (tool) => void tools.set(tool.name, tool),
  events: { on: (channel, handler) => bus.on(channel, (data) => void handler(data)) },
};
const context = { ui: { setStatus: (_key: string, text: string | undefined) => send({ status: text ?? null }) } };

const answer: { [K in PiRequest['kind']]: (request: Extract<PiRequest, { kind: K }>) => unknown } = {
  async fire({ event }) {
    for (const handler of handlers.get(event) ?? []) await handler({ type: event }, context);
  },
  emit: ({ channel, data }) => void bus.emit(channel, data),
  call: ({ tool, params }) => tools.get(tool)!.execute('call-1', params),
  tools: () => [...tools.values()].map(({ name, parameters }) => ({ name, parameters })),
  // If the other side disconnects, Node 20 reports no event when this process has closed its streams.
  leave: () => process.disconnect(),
};

const loaded = (await import(process.argv[2]!)) as { default: (pi: PiApi) => void };
loaded.default(pi);
process.on('message', async ({ id, ...request }: PiRequest & { id: number }) => {
  try {
    send({ id, result: (await answer[request.kind](request as never)) ?? null });
  } catch (error) {
    send({ id, error: (error as Error).message });
  }
});
