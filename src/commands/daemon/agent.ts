import { join } from 'node:path';
import { type Context, defineCommand } from '../../command.ts';
import type { OnExit } from '../../protocol/api.ts';
import { type ThisVmFlags, thisVm } from '../../this-vm.ts';
import { META_FLAG, SERVICE_FLAG } from '../../vm-flags.ts';
import { createLog, DETACH, dataDirOf, detach, LOG_SETTINGS, orTell, tellReady, VM_SETTINGS } from './life.ts';

/** Milliseconds for the agent's last word: the registry may be away just then, and systemd waits for the exit. */
const LAST_WORD = 3500;

export const agent = defineCommand<ThisVmFlags & { detach?: boolean }>({
  name: 'agent',
  summary: 'register this VM and keep it alive',
  description:
    'Registers this VM and beats for it. While the registry is away it tries again, with growing pauses; when the registry has forgotten the VM it registers it again. On SIGTERM the entry becomes stopped (see --on-exit).',
  settings: [...VM_SETTINGS, 'interval', 'on-exit', ...LOG_SETTINGS],
  flags: [SERVICE_FLAG, META_FLAG, DETACH],
  examples: [
    { about: 'with what the environment says', command: 'VERS_INFRA_URL=http://10.0.0.5:3000 vreg daemon agent' },
    {
      about: 'a lieutenant that offers a service',
      command: 'vreg daemon agent --role lieutenant --service pi-rpc:3001/health',
    },
    { about: 'in the background', command: 'vreg daemon agent --detach' },
  ],
  exits: [2, 4],
  run: (context, _args, flags) => orTell(runAgent(context, flags)),
});

async function runAgent(context: Context, flags: ThisVmFlags & { detach?: boolean }): Promise<void> {
  const { config } = context;
  const stateDir = dataDirOf(context);
  if (flags.detach) return detach(context, 'agent', join(stateDir, 'agent.log'));
  const main = await import('../../../daemon/agent/main.ts');
  const log = await createLog(context);
  const client = context.client();
  await main.runAgent(
    {
      client,
      lastClient: () => context.lastClient(LAST_WORD),
      vm: thisVm(config, flags),
      interval: config.duration('interval'),
      onExit: config.get('on-exit') as OnExit,
      stateDir,
      sleep: (ms) => context.sleep(ms),
      onUp: (trouble) => void tellReady(trouble),
    },
    log,
    context.signal,
  );
}
