import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { watchEvents } from '../client/event-source.ts';
import { type Context, defineCommand } from '../command.ts';
import { mustache } from '../expression.ts';
import { writeAtomically } from '../files.ts';
import { isOffered } from '../fleet/table.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { ROLES } from '../protocol/vm.ts';
import { runChild } from '../run/child.ts';
import { isPassing } from '../run/retry.ts';
import { ChildEnded } from '../session.ts';

/** Milliseconds in which further changes are gathered before a file is rendered again. */
const GATHER = 200;

interface Job {
  template: string;
  destination: string;
  command: string | undefined;
}

export const render = defineCommand<{ watch?: boolean; once?: boolean }>({
  name: 'render',
  summary: 'write files from the live registry, and keep them so',
  description:
    'Renders mustache templates into files, whole and in one step, and runs CMD (by a shell) when a file changed. A template sees one list of live VMs a role ({{#worker}} ... {{/worker}}), {{#live}} for all of them and {{#vms}} for every entry; of a VM its fields, and {{ports.NAME}} for the port of a service. A registry that is away leaves every file as it is. Without --watch, a CMD that fails gives the exit code.',
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
      command: "vreg render w.mustache:/etc/nginx/conf.d/w.conf:'nginx -s reload' --watch",
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
    const failed = await renderAll(context, jobs);
    if (watch) await renderOnChange(context, jobs);
    // A script must not go on as if the command had worked.
    if (failed !== 0) throw new ChildEnded(failed);
  },
});

/** Renders after each burst of events, and whenever the stream begins (anew): what came before it may have been missed. */
async function renderOnChange(context: Context, jobs: readonly Job[]): Promise<never> {
  const events = watchEvents(context, {});
  let next = events.next();
  for (;;) {
    await next;
    const over = context.sleep(GATHER).then(() => true);
    over.catch(() => {});
    do next = events.next();
    while (!(await Promise.race([over, next.then(() => false)])));
    await renderAll(context, jobs).catch((error: unknown) => {
      if (!isPassing(error)) throw error;
      context.note(`${error.message}; the files stay as they are`);
    });
  }
}

function parseJob(spec: string): Job {
  const [template, destination, ...command] = spec.split(':');
  if (!template || !destination) {
    throw new VregError('USAGE', `"${spec}" is not TEMPLATE:DEST or TEMPLATE:DEST:CMD`, {
      hint: "for example: hosts.mustache:hosts:'echo changed'",
    });
  }
  return { template, destination, command: command.length > 0 ? command.join(':') : undefined };
}

/** @returns 0, or the exit code of the first command that failed */
async function renderAll(context: Context, jobs: readonly Job[]): Promise<number> {
  const view = viewOf(await context.client().list({ sort: 'id' }));
  // All of them before the first is written: a template that is wrong leaves every file as it is.
  const texts: string[] = [];
  for (const { template } of jobs) {
    const toText = await mustache(template, 'correct the template; it is mustache(5)');
    texts.push(toText(readTemplate(template), view));
  }
  let failed = 0;
  for (const [index, { destination, command }] of jobs.entries()) {
    const changed = writeIfChanged(destination, texts[index]!);
    context.verbose(`${destination}: ${changed ? 'written' : 'unchanged'}`);
    if (changed && command !== undefined) failed ||= await runCommand(context, command, destination);
  }
  return failed;
}

/** Sorted by id, so that a file changes only when its contents do. */
function viewOf(vms: readonly VmWithLiveness[]): Record<string, unknown> {
  const rows = vms.map(({ stale, suspect: _suspect, health: _health, ...vm }) => ({
    ...vm,
    ports: Object.fromEntries((vm.services ?? []).map(({ name, port }) => [name, port])),
    isLive: isOffered({ ...vm, stale }),
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

/** Keeps the mode of the file and a link that leads to it. @returns whether the file was written */
function writeIfChanged(destination: string, text: string): boolean {
  const path = existsSync(destination) ? realpathSync(destination) : destination;
  try {
    if (existsSync(path) && readFileSync(path, 'utf8') === text) return false;
    // Two commands may render the same file at once, so each has a draft of its own.
    writeAtomically(path, text, { keepMode: true, sync: true, draft: `${path}.vreg-${process.pid}` });
    return true;
  } catch (cause) {
    throw new VregError('USAGE', `cannot write ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      field: 'dest',
      hint: 'check its folder and mode',
      cause,
    });
  }
}

async function runCommand(context: Context, command: string, destination: string): Promise<number> {
  const code = await runChild(context, ['/bin/sh', '-c', command], { env: {} });
  context.signal.throwIfAborted();
  if (code !== 0) context.note(`"${command}" ended with ${code}; ${destination} is written`);
  return code;
}
