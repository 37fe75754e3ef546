import { defineCommand } from '../command.ts';
import { agent } from './daemon/agent.ts';
import { install, uninstall } from './daemon/install.ts';
import { restore } from './daemon/restore.ts';
import { runServe, SERVE_FLAGS, SERVE_SETTINGS, type ServeFlags, serve } from './daemon/serve.ts';
import { status, stop } from './daemon/status.ts';
import { unit } from './daemon/unit.ts';

export const daemon = defineCommand<ServeFlags>({
  name: 'daemon',
  summary: 'run the registry, or the heartbeat agent of this VM',
  description:
    'Runs the registry (as vreg daemon serve) or, with a subcommand, the heartbeat agent of this VM; says what runs and stops it; makes systemd units of both.',
  settings: SERVE_SETTINGS,
  flags: SERVE_FLAGS,
  examples: [
    { about: 'the registry, on this machine', command: 'vreg daemon' },
    { about: 'the agent of a VM', command: 'vreg daemon agent --role worker' },
    { about: 'what runs here?', command: 'vreg daemon status' },
  ],
  exits: [4],
  commands: [serve, agent, status, stop, restore, unit, install, uninstall],
  run: runServe,
});
