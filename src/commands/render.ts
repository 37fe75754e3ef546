import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { watchEvents } from '../client/event-source.ts';
import { type Context, defineCommand } from '../command.ts';
import { ChildEnded } from '../exit.ts';
import { readFileOrPipe, writeAtomically } from '../files.ts';
import { emptyTerminal, isStdin, noteTerminal, rejectEmpty } from '../fleet/import-file.ts';
import { isOffered } from '../fleet/table.ts';
import { usableVms } from '../fleet/usable.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { cannotRead, cannotWrite, exclusiveFlags, VregError } from '../protocol/errors.ts';
import { withoutLiveness } from '../protocol/liveness.ts';
import { ROLES } from '../protocol/vm.ts';
import { escaperFor, FORMATS, type Format } from '../render/escape.ts';
import { mustache } from '../render/expression.ts';
import { runChild } from '../run/child-process.ts';
import { isTransient } from '../run/retry.ts';

/** Milliseconds to wait for further changes before rendering again, so that a burst causes one reload. */
const DEBOUNCE = 200;

interface Job {
  template: string;
  destination: string;
  command: string | undefined;
}

interface Flags {
  watch?: boolean;
  once?: boolean;
  for?: Format;
}

export const render = defineCommand<Flags>({
  name: 'render',
  summary: 'render files from the registry and keep them up to date',
  description:
    'Renders mustache templates to files, replaces each file atomically, and runs CMD in a shell if the file changed. In a template, {{#worker}} ... {{/worker}} iterates over the live workers (likewise for each role), {{#live}} over all live VMs, and {{#vms}} over all entries. Inside these sections, the fields of the VM are available by name, and {{ports.NAME}} is the port of the service NAME. --for escapes each {{...}} for a format. If --for is not given, or a value cannot be escaped safely at its place (for example in a shell here-document), a value that may need escaping is rejected with exit code 5 and an error that names the VM and the field. {{{...}}} inserts a value without escaping. An IPv6 address gets brackets before a port and in a URL. While the registry is unreachable, files remain unchanged. Without --watch, the exit code is that of the first CMD that failed.',
  arguments: [
    {
      name: 'template:dest[:cmd]',
      about: 'template file, file to write, command to run after a change',
      variadic: true,
      values: 'render-job',
    },
  ],
  flags: [
    { flags: '--for <format>', about: 'escape values for this file format', values: FORMATS },
    { flags: '--once', about: 'render once and exit (default)' },
    { flags: '--watch', about: 'keep running and render again when the registry changes' },
  ],
  examples: [
    {
      about: 'an nginx upstream with all workers',
      command: "vreg render w.mustache:/etc/nginx/conf.d/w.conf:'nginx -s reload' --for nginx --watch",
    },
    { about: 'a hosts file, once', command: 'vreg render hosts.mustache:hosts' },
    { about: 'a shell script that other scripts source', command: 'vreg render fleet.mustache:fleet.sh --for shell' },
    { about: 'two files', command: 'vreg render a.mustache:a.conf b.mustache:b.conf' },
  ],
  exits: [2, 8],
  async run(context, specs, { watch, once, for: format }) {
    if (watch && once) throw exclusiveFlags('--watch', '--once');
    const jobs = specs.map(parseJob);
    const reported = new Set<string>();
    const renderJobs = () => renderAll(context, jobs, format, reported);
    const failed = await renderJobs();
    if (watch) await renderOnChange(context, renderJobs);
    // Report the failure, so that a calling script does not continue.
    if (failed !== 0) throw new ChildEnded(failed);
  },
});

/** Renders after each burst of events, and whenever the event stream (re)starts, because earlier events may be lost. */
async function renderOnChange(context: Context, renderJobs: () => Promise<number>): Promise<never> {
  const events = watchEvents(context, {});
  let next = events.next();
  for (;;) {
    await next;
    const elapsed = context.sleep(DEBOUNCE).then(() => true);
    elapsed.catch(() => {});
    do next = events.next();
    while (!(await Promise.race([elapsed, next.then(() => false)])));
    await renderJobs().catch((error: unknown) => {
      // A VM with an unsafe value must not end the command for all others.
      const isUnsafe = error instanceof VregError && error.code === 'INVALID';
      if (!isTransient(error) && !isUnsafe) throw error;
      context.note(`${error.message}; files remain unchanged`);
    });
  }
}

function parseJob(spec: string): Job {
  const [template, destination, ...command] = spec.split(':');
  if (!template || !destination) {
    throw new VregError('USAGE', `invalid argument "${spec}"`, {
      hint: "use TEMPLATE:DEST or TEMPLATE:DEST:CMD, for example hosts.mustache:hosts:'echo changed'",
    });
  }
  return { template, destination, command: command.length > 0 ? command.join(':') : undefined };
}

/**
 * @param reported warnings about VMs that were printed before
 * @returns 0, or the exit code of the first command that failed
 */
async function renderAll(
  context: Context,
  jobs: readonly Job[],
  format: Format | undefined,
  reported: Set<string>,
): Promise<number> {
  const view = viewOf(usableVms(context, await context.client().listAtOnce({ sort: 'id' }), reported));
  // Render all templates before writing the first file: an invalid template must leave all files unchanged.
  const texts: string[] = [];
  for (const { template } of jobs) {
    const hint = 'fix the template; for the syntax, see mustache(5)';
    const toText = await mustache(template, hint, () => escaperFor(format));
    texts.push(toText(await readTemplate(context, template), view));
  }
  let failed = 0;
  for (const [index, { destination, command }] of jobs.entries()) {
    const changed = writeIfChanged(destination, texts[index]!);
    context.verbose(`${destination}: ${changed ? 'written' : 'unchanged'}`);
    if (changed && command !== undefined) failed ||= await runCommand(context, command, destination);
  }
  return failed;
}

/** The data for the templates. @param vms sorted by id, so the output is stable */
function viewOf(vms: readonly VmWithLiveness[]): Record<string, unknown> {
  const rows = vms.map((vm) => ({
    ...withoutLiveness(vm),
    ports: Object.fromEntries((vm.services ?? []).map(({ name, port }) => [name, port])),
    isLive: isOffered(vm),
  }));
  const live = rows.filter(({ isLive }) => isLive);
  return { vms: rows, live, ...Object.fromEntries(ROLES.map((role) => [role, live.filter((vm) => vm.role === role)])) };
}

async function readTemplate(context: Context, path: string): Promise<string> {
  const { io, signal } = context;
  noteTerminal(context, path);
  try {
    const text = await readFileOrPipe(path, (ms) => context.sleep(ms));
    // The command that writes to the pipe has probably failed: keep the destination.
    if (text === '' && path !== '/dev/null' && !statSync(path).isFile()) {
      if (isStdin(path) && io.stdinTty) throw emptyTerminal('template');
      rejectEmpty(text, path, 'template');
    }
    return text;
  } catch (cause) {
    if (cause instanceof VregError) throw cause;
    signal.throwIfAborted();
    throw cannotRead(`the template ${path}`, cause, { field: 'template', hint: 'check the path' });
  }
}

/** Replaces the file atomically. Keeps its mode and follows a symbolic link. @returns false if it is up to date */
function writeIfChanged(destination: string, text: string): boolean {
  const path = existsSync(destination) ? realpathSync(destination) : destination;
  try {
    if (existsSync(path) && readFileSync(path, 'utf8') === text) return false;
    // Two processes may render the same file at the same time, so each has its own temporary file.
    writeAtomically(path, text, { keepMode: true, sync: true, draft: `${path}.vreg-${process.pid}` });
    return true;
  } catch (cause) {
    throw cannotWrite(path, cause, { field: 'dest', hint: 'check its folder and mode' });
  }
}

async function runCommand(context: Context, command: string, destination: string): Promise<number> {
  const { code } = await runChild(context, ['/bin/sh', '-c', command], { env: {} });
  context.signal.throwIfAborted();
  if (code !== 0) context.note(`"${command}" exited with ${code}; ${destination} was written`);
  return code;
}
