import { defineCommand } from '../command.ts';

export const skill = defineCommand({
  name: 'skill',
  summary: 'print a skill for coding agents (SKILL.md)',
  description:
    'Prints a SKILL.md that teaches a coding agent to use the registry: to register VMs, discover services, send heartbeats, recover after a lost session, and find stale VMs, each with vreg and with curl. The package contains the same file as dist/skills/registry/SKILL.md.',
  examples: [
    { about: 'read the skill', command: 'vreg skill | less' },
    { about: 'install it for Claude Code', command: 'vreg setup claude --only skill' },
    { about: 'its name and description', command: 'vreg skill -o json | jq .description' },
  ],
  async run(context) {
    const { SKILL_DESCRIPTION, SKILL_NAME, skillPage } = await import('../skill.ts');
    const text = skillPage(await context.commands());
    const data = { name: SKILL_NAME, description: SKILL_DESCRIPTION, text };
    if (context.format === 'name') return context.print({ kind: 'value', text: SKILL_NAME, data });
    await context.print({ kind: 'value', text: text.trimEnd(), data });
  },
});
