import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type Context, defineCommand } from '../command.ts';
import { readProgramFile } from '../program.ts';
import { VregError } from '../protocol/errors.ts';
import type { Part, Program } from '../setup.ts';

const PROGRAMS: readonly Program[] = ['claude', 'codex', 'pi'];
const PARTS: readonly Part[] = ['mcp', 'skill', 'hooks'];

interface Flags {
  only?: Part[];
  project?: boolean;
  dryRun?: boolean;
  remove?: boolean;
}

export const setup = defineCommand<Flags>({
  name: 'setup',
  summary: 'add the registry to a coding agent (MCP, skill, hooks)',
  description:
    'Adds the MCP server, the skill and the hooks of vreg to the files of Claude Code, Codex or pi, and prints each file. pi has no MCP servers and no hooks that run a command: it gets an extension as its hooks, which registers this VM, sends heartbeats, and has the tools of the MCP server. pi does not start with two such extensions, so it is skipped beside another one (exit code 4). Running it again changes nothing, except after an upgrade of vreg: then it updates the skill and the extension. Other entries in these files stay as they are, a file or an entry that somebody edited is kept (exit code 4), and none of them receives a token: the registry comes from the settings of vreg. --remove removes what it added.',
  arguments: [{ name: 'program', about: 'the coding agent', values: PROGRAMS }],
  flags: [
    { flags: '--only <part>', about: 'only these parts (pi: skill and hooks)', list: true, values: PARTS },
    { flags: '--project', about: 'change the files of the project in this folder, not those of the user' },
    { flags: '--dry-run', about: 'print the files, and change nothing' },
    { flags: '--remove', about: 'remove what vreg setup has added' },
  ],
  examples: [
    { about: 'see what would change', command: 'vreg setup claude --dry-run' },
    { about: 'everything for Codex', command: 'vreg setup codex' },
    { about: 'only the skill, for all who work on this project', command: 'vreg setup claude --project --only skill' },
    { about: 'the extension for pi', command: 'vreg setup pi --only hooks' },
    { about: 'remove it', command: 'vreg setup claude --remove' },
  ],
  exits: [4],
  async run(context, [name], { only, project = false, dryRun = false, remove = false }) {
    const program = PROGRAMS.find((each) => each === name);
    if (!program)
      throw new VregError('USAGE', `invalid program "${name}"`, {
        field: 'program',
        hint: `one of: ${PROGRAMS.join(', ')}`,
      });
    if (program === 'pi' && only?.length && only.every((part) => part === 'mcp'))
      throw new VregError('USAGE', 'pi has no MCP servers, so --only mcp adds nothing', {
        field: '--only',
        hint: 'its extension has the same tools: vreg setup pi --only hooks',
      });
    const { applySteps, planSetup } = await import('../setup.ts');
    const { skillPage } = await import('../skill.ts');
    const steps = planSetup({
      program,
      parts: only ?? PARTS,
      isProject: project,
      folder: process.cwd(),
      remove,
      env: context.env,
      skill: skillPage(await context.commands()),
      extension: program === 'pi' ? readProgramFile('dist/pi/registry.js') : '',
    });
    const { done, failure } = dryRun ? { done: steps } : applySteps(steps);
    await context.print({
      kind: 'rows',
      rows: done,
      columns: [
        { title: 'PART', cell: ({ part }) => part },
        { title: 'ACTION', cell: ({ action }) => action },
        { title: 'FILE', cell: ({ path }) => path },
      ],
      name: ({ path }) => path,
      data: ({ part, action, path }) => ({ part, action, path }),
    });
    if (failure) throw failure;
    if (dryRun) context.note('nothing was changed (--dry-run)');
    else if (!remove && program !== 'pi' && !isOnPath(context))
      context.note(
        `vreg is not on the PATH, so ${program} cannot start it: put it into a folder of the PATH, e.g. npm install -g vreg`,
      );
    const obstacle = steps.find((step) => step.obstacle)?.obstacle;
    if (obstacle) throw obstacle;
    const kept = steps.filter(({ isEdited }) => isEdited).map(({ path }) => path);
    if (kept.length > 0)
      throw new VregError(
        'CONFLICT',
        `somebody has edited what vreg setup would change, so it was kept: ${kept.join(', ')}`,
        {
          hint: remove
            ? 'delete the edited file or entry yourself if you no longer need it'
            : 'to use the version of vreg, remove the edited file or entry, then run vreg setup again',
        },
      );
  },
});

function isOnPath({ env }: Context): boolean {
  return (env.PATH ?? '').split(delimiter).some((folder) => folder !== '' && existsSync(join(folder, 'vreg')));
}
