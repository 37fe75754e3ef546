/** Clients of `vreg mcp`: one written by hand, which sees each byte, and that of the SDK. Both start the real program. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { TestContext } from 'node:test';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { cleanEnv, ENTRY, endAfter, PROGRAM, tempDir } from './daemon.ts';

export interface McpOptions {
  url?: string;
  args?: readonly string[];
  env?: NodeJS.ProcessEnv;
  home?: string;
}

export interface Message {
  id?: number | null;
  method?: string;
  params?: Record<string, unknown>;
  result?: Record<string, unknown>;
  error?: { code: number; message: string };
}

/** The result of a tool. */
export interface ToolResult {
  content: { type: string; text: string }[];
  structuredContent?: Record<string, unknown>;
  isError?: boolean;
}

/** The newest version with a handshake, and the one without. */
export const LEGACY = '2025-11-25';
export const MODERN = '2026-07-28';

/** The part of each request that carries version and capabilities since 2026-07-28. */
const ENVELOPE = {
  'io.modelcontextprotocol/protocolVersion': MODERN,
  'io.modelcontextprotocol/clientInfo': { name: 'by-hand', version: '1' },
  'io.modelcontextprotocol/clientCapabilities': {},
};

export class HandWrittenClient {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** All bytes of stdout and stderr so far. */
  stdout = '';
  stderr = '';
  /** Messages without an id. */
  readonly notifications: Message[] = [];
  readonly #isModern: boolean;
  readonly #waiting = new Map<number, (message: Message) => void>();
  #lastId = 0;
  #rest = '';

  constructor(
    t: TestContext,
    { url = 'http://127.0.0.1:1', args = [], env, home = tempDir(t) }: McpOptions,
    era: string,
  ) {
    this.#isModern = era === MODERN;
    this.child = spawn(PROGRAM, [...ENTRY, 'mcp', ...args], {
      env: cleanEnv(home, { VERS_INFRA_URL: url, VERS_VM_ID: 'vm-1', ...env }),
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.child.stdout!.setEncoding('utf8').on('data', (chunk: string) => this.#read(chunk));
    this.child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
      this.stderr += chunk;
    });
    this.child.stdin!.on('error', () => {});
    this.ended = new Promise((resolve) => {
      this.child.once('close', (code, signal) => resolve({ code, signal }));
    });
    endAfter(t, () => {
      this.child.kill('SIGKILL');
      return this.ended;
    });
  }

  /** Writes a line that need not be a message. */
  write(line: string): void {
    this.child.stdin!.write(`${line}\n`);
  }

  notify(method: string, params: object = {}): void {
    this.write(JSON.stringify({ jsonrpc: '2.0', method, params: this.#withEnvelope(params) }));
  }

  /** @returns also the id, to cancel the request */
  start(method: string, params: object = {}): { id: number; answer: Promise<Message> } {
    const id = ++this.#lastId;
    const answer = new Promise<Message>((resolve) => this.#waiting.set(id, resolve));
    this.write(JSON.stringify({ jsonrpc: '2.0', id, method, params: this.#withEnvelope(params) }));
    return { id, answer };
  }

  request(method: string, params: object = {}): Promise<Message> {
    return this.start(method, params).answer;
  }

  async call(name: string, args: object = {}): Promise<ToolResult> {
    const { result, error } = await this.request('tools/call', { name, arguments: args });
    if (error) throw new Error(error.message);
    return result as unknown as ToolResult;
  }

  /** Calls a tool that fails. @returns its text */
  async failure(name: string, args: object = {}): Promise<string> {
    const { isError, content } = await this.call(name, args);
    if (!isError) throw new Error(`${name} did not fail`);
    return content[0]!.text;
  }

  /** Performs the handshake of the versions before 2026-07-28. */
  async initialize(protocolVersion = LEGACY): Promise<Message> {
    const clientInfo = { name: 'by-hand', version: '1' };
    const answer = await this.request('initialize', { protocolVersion, capabilities: {}, clientInfo });
    this.notify('notifications/initialized');
    return answer;
  }

  #withEnvelope(params: object): object {
    return this.#isModern ? { ...params, _meta: { ...ENVELOPE, ...(params as { _meta?: object })._meta } } : params;
  }

  #read(chunk: string): void {
    this.stdout += chunk;
    const lines = (this.#rest + chunk).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) {
      const message = JSON.parse(line) as Message;
      // An error without an id answers a line whose id cannot be known.
      if (message.id === undefined || message.id === null) this.notifications.push(message);
      else this.#waiting.get(message.id)?.(message);
    }
  }
}

/** Starts the server, with the handshake if the version has one. */
export async function startMcp(t: TestContext, options: McpOptions = {}, era = LEGACY): Promise<HandWrittenClient> {
  const client = new HandWrittenClient(t, options, era);
  if (era !== MODERN) await client.initialize(era);
  return client;
}

/** Connects the client of the SDK, which validates structured results with the output schemas. */
export async function connectMcp(
  t: TestContext,
  { url = 'http://127.0.0.1:1', args = [], env, home = tempDir(t) }: McpOptions = {},
  mode: 'legacy' | { pin: string } = 'legacy',
): Promise<Client> {
  const client = new Client({ name: 'test', version: '1' }, { versionNegotiation: { mode } });
  const environment = cleanEnv(home, { VERS_INFRA_URL: url, VERS_VM_ID: 'vm-1', ...env });
  const transport = new StdioClientTransport({
    command: PROGRAM!,
    args: [...ENTRY, 'mcp', ...args],
    env: Object.fromEntries(Object.entries(environment).filter((pair): pair is [string, string] => !!pair[1])),
    stderr: 'ignore',
  });
  endAfter(t, () => client.close());
  await client.connect(transport);
  return client;
}
