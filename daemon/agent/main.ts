/** The agent's process: its files, its life, its last word. */
import { mkdirSync } from 'node:fs';
import type { RegistryClient } from '../../src/client.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { removeProcessInfo, writeProcessInfo } from '../process-file.ts';
import { Agent, type AgentLog, type OnExit } from './agent.ts';

export interface AgentProcessOptions {
  client: RegistryClient;
  /** Makes a client for the last word, which must not hang on the aborted signal of the first. */
  lastClient(): RegistryClient;
  vm: Registration;
  /** Milliseconds. */
  interval: number;
  onExit: OnExit;
  /** Where `vreg daemon status` looks for the agent. */
  stateDir: string;
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  onReady(): void;
}

/** Runs until the signal is aborted. @throws VregError as {@link Agent.run} */
export async function runAgent(options: AgentProcessOptions, log: AgentLog, signal: AbortSignal): Promise<void> {
  const { client, lastClient, vm, stateDir } = options;
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  writeProcessInfo(stateDir, { kind: 'agent', urls: [client.url], vm: vm.id });
  const common = { ...options, announce: true, registerIfMissing: true, log };
  try {
    await new Agent(common).run(signal);
    await new Agent({ ...common, client: lastClient() }).leave();
  } finally {
    removeProcessInfo(stateDir, 'agent');
  }
}
