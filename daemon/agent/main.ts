/** The agent's process: its files, its life, its last word. */
import type { RegistryClient } from '../../src/client.ts';
import type { OnExit } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { makeStateDir, readProcesses, removeProcessInfo, writeProcessInfo } from '../process-file.ts';
import { Agent, type AgentLog } from './agent.ts';

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
  onUp(trouble?: string): void;
}

/**
 * Runs until the signal is aborted.
 * @throws VregError as {@link Agent.run}; ALREADY_RUNNING when an agent keeps this VM alive with this state dir; STORE_UNUSABLE
 */
export async function runAgent(options: AgentProcessOptions, log: AgentLog, signal: AbortSignal): Promise<void> {
  const { client, lastClient, vm, stateDir } = options;
  makeStateDir(stateDir);
  // Two agents of one VM would speak against each other when the first of them stops.
  const other = readProcesses(stateDir, 'agent').find((info) => info.vm === vm.id);
  if (other) {
    throw new VregError('ALREADY_RUNNING', `an agent for VM "${vm.id}" runs already: pid ${other.pid}`, {
      hint: 'stop it (vreg daemon stop agent), or give this one another --id',
    });
  }
  writeProcessInfo(stateDir, { kind: 'agent', urls: [client.url], vm: vm.id });
  const common = { ...options, announce: true, registerIfMissing: true, log };
  try {
    await new Agent(common).run(signal);
    const last = lastClient();
    await new Agent({ ...common, client: last }).leave();
    last.close();
  } finally {
    removeProcessInfo(stateDir, 'agent', vm.id);
  }
}
