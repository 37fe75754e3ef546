import { defineCommand } from '../command.ts';
import { agent } from './daemon/agent.ts';
import { check } from './daemon/check.ts';
import { install, uninstall } from './daemon/install.ts';
import { logs } from './daemon/logs.ts';
import { restore } from './daemon/restore.ts';
import { runServe, SERVE_FLAGS, SERVE_SETTINGS, type ServeFlags, serve } from './daemon/serve.ts';
import { status } from './daemon/status.ts';
import { stop } from './daemon/stop.ts';
import { unit } from './daemon/unit.ts';

export const daemon = defineCommand<ServeFlags>({
  name: 'daemon',
  summary: 'run the registry, or the heartbeat agent for this VM',
  description:
    'Runs the registry (same as vreg daemon serve). Subcommands run the heartbeat agent for this VM, show or stop running processes, restore backups, check etcd clusters, and create systemd units.',
  settings: SERVE_SETTINGS,
  flags: SERVE_FLAGS,
  examples: [
    { about: 'run the registry on this machine', command: 'vreg daemon' },
    { about: 'run the agent for this VM', command: 'vreg daemon agent --role worker' },
    { about: 'show what is running on this machine', command: 'vreg daemon status' },
  ],
  exits: [4],
  reloadsOnHangup: true,
  commands: [serve, agent, status, logs, stop, restore, check, unit, install, uninstall],
  run: runServe,
});
