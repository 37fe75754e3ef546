/** The table of commands. Each command is loaded on demand, so start-up pays for one command only. */
import type { Command, Group } from './command.ts';

interface Branch {
  name: string;
  aliases?: readonly string[];
  load(): Promise<Command<never>>;
}

/** The commands of each section of `vreg --help`, in its order. */
const SECTIONS: Readonly<Record<Group, readonly Branch[]>> = {
  look: [
    { name: 'ls', aliases: ['list', 'ps'], load: async () => (await import('./commands/ls.ts')).ls },
    { name: 'get', aliases: ['show'], load: async () => (await import('./commands/get.ts')).get },
    { name: 'describe', load: async () => (await import('./commands/describe.ts')).describe },
    { name: 'discover', aliases: ['find'], load: async () => (await import('./commands/discover.ts')).discover },
    { name: 'ui', load: async () => (await import('./commands/ui.ts')).ui },
    { name: 'tree', load: async () => (await import('./commands/tree.ts')).tree },
    { name: 'watch', load: async () => (await import('./commands/watch.ts')).watch },
    { name: 'whoami', load: async () => (await import('./commands/whoami.ts')).whoami },
    { name: 'status', load: async () => (await import('./commands/status.ts')).status },
    { name: 'why', load: async () => (await import('./commands/why.ts')).why },
    { name: 'history', load: async () => (await import('./commands/history.ts')).history },
    { name: 'conflicts', load: async () => (await import('./commands/conflicts.ts')).conflicts },
  ],
  change: [
    { name: 'register', aliases: ['reg'], load: async () => (await import('./commands/register.ts')).register },
    { name: 'update', aliases: ['set', 'patch'], load: async () => (await import('./commands/update.ts')).update },
    { name: 'edit', load: async () => (await import('./commands/edit.ts')).edit },
    { name: 'pause', load: async () => (await import('./commands/set-status.ts')).pause },
    { name: 'resume', load: async () => (await import('./commands/set-status.ts')).resume },
    { name: 'stop', load: async () => (await import('./commands/set-status.ts')).stop },
    { name: 'rm', aliases: ['deregister', 'delete'], load: async () => (await import('./commands/rm.ts')).rm },
    { name: 'prune', load: async () => (await import('./commands/prune.ts')).prune },
    {
      name: 'heartbeat',
      aliases: ['hb', 'beat'],
      load: async () => (await import('./commands/heartbeat.ts')).heartbeat,
    },
  ],
  script: [
    { name: 'addr', load: async () => (await import('./commands/addr.ts')).addr },
    { name: 'url', load: async () => (await import('./commands/url.ts')).url },
    { name: 'env', load: async () => (await import('./commands/env.ts')).env },
    { name: 'exec', load: async () => (await import('./commands/exec.ts')).exec },
    { name: 'render', load: async () => (await import('./commands/render.ts')).render },
    { name: 'wait', load: async () => (await import('./commands/wait.ts')).wait },
    { name: 'api', load: async () => (await import('./commands/api.ts')).api },
  ],
  operate: [
    { name: 'daemon', load: async () => (await import('./commands/daemon.ts')).daemon },
    { name: 'doctor', load: async () => (await import('./commands/doctor.ts')).doctor },
    { name: 'health', load: async () => (await import('./commands/health.ts')).health },
    { name: 'export', load: async () => (await import('./commands/export.ts')).exportVms },
    { name: 'import', load: async () => (await import('./commands/import.ts')).importVms },
    { name: 'backup', load: async () => (await import('./commands/backup.ts')).backup },
  ],
  setUp: [
    { name: 'mcp', load: async () => (await import('./commands/mcp.ts')).mcp },
    { name: 'hook', load: async () => (await import('./commands/hook.ts')).hook },
    { name: 'setup', load: async () => (await import('./commands/setup.ts')).setup },
    { name: 'skill', load: async () => (await import('./commands/skill.ts')).skill },
    { name: 'token', load: async () => (await import('./commands/token.ts')).token },
    { name: 'context', load: async () => (await import('./commands/context.ts')).context },
    { name: 'config', load: async () => (await import('./commands/config.ts')).config },
    { name: 'completion', load: async () => (await import('./commands/completion.ts')).completion },
    { name: 'version', load: async () => (await import('./commands/version.ts')).version },
    { name: 'help', load: async () => (await import('./commands/help.ts')).help },
  ],
};

export const BRANCHES: readonly Branch[] = Object.values(SECTIONS).flat();

/** Loads the command with this name or alias; undefined if there is none. */
export function loadCommand(name: string): Promise<Command<never>> | undefined {
  return BRANCHES.find((branch) => branch.name === name || branch.aliases?.includes(name))?.load();
}

/** Loads all commands, with the section of the help to which each belongs. */
export function loadAllCommands(): Promise<Command<never>[]> {
  const sections = Object.entries(SECTIONS) as [Group, readonly Branch[]][];
  return Promise.all(
    sections.flatMap(([group, branches]) => branches.map(async ({ load }) => ({ ...(await load()), group }))),
  );
}
