import { defineCommand } from '../command.ts';

interface Flags {
  tools?: string[];
  readOnly?: boolean;
}

export const mcp = defineCommand<Flags>({
  name: 'mcp',
  summary: 'serve the registry to coding agents (MCP)',
  description:
    'Runs a server for the Model Context Protocol on stdin and stdout, which a coding agent starts. Its tools register, list, discover, update and wait for VMs, send heartbeats, and explain the registry; its resources are the fleet and each VM. It starts even if the registry is unreachable; each call then reports that. In a VM that is a clone, the tools that change the registry refuse to act as the VM from which it was copied. The server ends when the coding agent closes stdin.',
  settings: ['id', 'id-file', 'name', 'role', 'address', 'registered-by', 'data-dir'],
  flags: [
    { flags: '--read-only', about: 'only tools that do not change the registry' },
    { flags: '--tools <names>', about: 'only these tools, separated by commas', list: true },
  ],
  examples: [
    { about: 'add the server to Claude Code, with the skill and the hooks', command: 'vreg setup claude' },
    { about: 'only the server, with the command of Claude Code', command: 'claude mcp add registry -- vreg mcp' },
    { about: 'for an agent that only observes', command: 'vreg mcp --read-only' },
    { about: 'two tools', command: 'vreg mcp --tools registry_discover,registry_wait' },
  ],
  exits: [2],
  async run(context, _args, { tools, readOnly = false }) {
    const { serveMcp } = await import('../mcp.ts');
    await serveMcp(context, { tools, readOnly, stdin: process.stdin, stdout: process.stdout });
  },
});
