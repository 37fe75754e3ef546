import { spawn } from 'node:child_process';
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { type Context, defineCommand } from '../command.ts';
import { mustache } from '../expression.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { ROLES } from '../protocol/vm.ts';
import { livenessOf } from '../vm-answer.ts';
import { watchEvents } from '../watch.ts';

/** Milliseconds in which further changes are gathered before a file is rendered again. */
const GATHER = 200;

interface Job {
  template: string;
  destination: string;
  command: string | undefined;
}

export const render = defineCommand<{ watch?: boolean; once?: boolean }>({
  name: 'render',
  summary: 'write files from the live registry, and run a command on a change',
  description:
    'Renders mustache templates into files, whole and in one step, and runs CMD (by a shell) when a file changed. A template sees one list of live VMs a role ({{#worker}} ... {{/worker}}), {{#live}} for all of them and {{#vms}} for every entry; of a VM its fields, and {{ports.NAME}} for the port of a service. A registry that is away leaves every file as it is.',
  arguments: [
    { name: 'template:dest[:cmd]', about: 'template file, file to write, command to run on a change', variadic: true },
  ],
  flags: [
    { flags: '--once', about: 'render and end (the default)' },
    { flags: '--watch', about: 'stay, and render again when the registry changes' },
  ],
  examples: [
    {
      about: 'an nginx upstream of all workers',
      command: "vreg render workers.conf.mustache:/etc/nginx/conf.d/workers.conf:'nginx -s reload' --watch",
    },
    { about: 'a hosts file, once', command: 'vreg render hosts.mustache:hosts' },
    { about: 'two files', command: 'vreg render a.mustache:a.conf b.mustache:b.conf' },
  ],
  exits: [2, 8],
  async run(context, specs, { watch, once }) {
    if (watch && once)
      throw new VregError('USAGE', '--watch and --once exclude each other', {
        field: 'watch',
        hint: 'leave one of them out',
      });
    const jobs = specs.map(parseJob);
    await renderAll(context, jobs);
    if (!watch) return;
    const events = watchEvents(context, {});
    for await (const event of events) {
      if (event.type === 'synced') continue;
      await context.sleep(GATHER);
      await renderAll(context, jobs).catch((error: unknown) => {
        if (!(error instanceof VregError) || error.code !== 'UNREACHABLE') throw error;
        context.note(`${error.message}; the files stay as they are`);
      });
    }
  },
});

function parseJob(spec: string): Job {
  const [template, destination, ...command] = spec.split(':');
  if (!template || !destination) {
    throw new VregError('USAGE', `"${spec}" is not TEMPLATE:DEST or TEMPLATE:DEST:CMD`, {
      hint: "for example: hosts.mustache:hosts:'echo changed'",
    });
  }
  return { template, destination, command: command.length > 0 ? command.join(':') : undefined };
}

async function renderAll(context: Context, jobs: readonly Job[]): Promise<void> {
  const view = viewOf(await context.client().list({ sort: 'id' }));
  const toText = await mustache();
  for (const { template, destination, command } of jobs) {
    const changed = writeIfChanged(destination, toText(readTemplate(template), view));
    context.verbose(`${destination}: ${changed ? 'written' : 'unchanged'}`);
    if (changed && command !== undefined) await runCommand(context, command);
  }
}

/** Sorted by id, so that a file changes only when its contents do. */
function viewOf(vms: readonly VmWithLiveness[]): Record<string, unknown> {
  const rows = vms.map(({ stale, ...vm }) => ({
    ...vm,
    ports: Object.fromEntries((vm.services ?? []).map(({ name, port }) => [name, port])),
    isLive: livenessOf({ ...vm, stale }) === 'live',
  }));
  const live = rows.filter(({ isLive }) => isLive);
  return { vms: rows, live, ...Object.fromEntries(ROLES.map((role) => [role, live.filter((vm) => vm.role === role)])) };
}

function readTemplate(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new VregError('USAGE', `cannot read the template ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      field: 'template',
      hint: 'check its path',
      cause,
    });
  }
}

/** A reader finds the old file or the new one, never a part; mode and name stay. */
function writeIfChanged(path: string, text: string): boolean {
  try {
    if (existsSync(path) && readFileSync(path, 'utf8') === text) return false;
    const mode = statSync(path, { throwIfNoEntry: false })?.mode;
    const draft = `${path}.vreg-${process.pid}`;
    writeFileSync(draft, text, mode === undefined ? {} : { mode });
    renameSync(draft, path);
    return true;
  } catch (cause) {
    throw new VregError('USAGE', `cannot write ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      field: 'dest',
      hint: 'check its folder and mode',
      cause,
    });
  }
}

async function runCommand(context: Context, command: string): Promise<void> {
  const child = spawn('/bin/sh', ['-c', command], { stdio: 'inherit' });
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
  if (code !== 0) context.note(`"${command}" ended with ${code}`);
}
