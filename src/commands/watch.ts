import { watchEvents } from '../client/event-source.ts';
import { type Context, defineCommand } from '../command.ts';
import { isTextFormat } from '../config/settings.ts';
import { requireRoles } from '../fleet/lookup.ts';
import { VregError } from '../protocol/errors.ts';
import { eventForScripts, formatChanges, type StreamEvent, type VmEvent } from '../protocol/events.ts';
import { escapeControls, printable } from '../protocol/redact.ts';
import { forScripts, idFault, ROLES, STATUSES } from '../protocol/vm.ts';
import type { Column } from '../render.ts';
import { runChild, splitCommand } from '../run/child-process.ts';

interface Flags {
  id?: string;
  status?: string[];
  since?: string;
  heartbeats?: boolean;
}

export const watch = defineCommand<Flags>({
  name: 'watch',
  summary: 'stream the events of the registry',
  description:
    'Prints one event per line until stopped; on a terminal, with its age and the old and new values. The events are registered, updated, status, deregistered, stale, suspect, revived, conflict and reset. After a lost connection it resumes without a gap; if that is impossible, it prints a reset event followed by the full state. A command after -- runs once for each event, one at a time. It receives the event as JSON on its stdin, the event type in VREG_EVENT, and other fields in VREG_REVISION, VREG_POSITION, VREG_VM_ID, VREG_VM_NAME, VREG_VM_ROLE, VREG_VM_STATUS and VREG_VM_ADDRESS.',
  arguments: [
    {
      name: 'role',
      about: 'only VMs with this role, or with one of several separated by commas',
      optional: true,
      values: ROLES,
    },
    {
      name: 'command',
      about: 'after --: the command to run for each event',
      optional: true,
      variadic: true,
      values: 'program',
    },
  ],
  flags: [
    { flags: '--id <id>', about: 'only this VM', values: 'ids' },
    { flags: '--status <status>', about: 'only VMs with this status', values: STATUSES, list: true },
    {
      flags: '--since <position>',
      about: 'start after this position; "start" prints the full state first',
      offers: ['start'],
    },
    { flags: '--heartbeats', about: 'also print heartbeats' },
  ],
  examples: [
    { about: 'all events', command: 'vreg watch' },
    {
      about: 'workers as NDJSON, starting with the current state',
      command: 'vreg watch worker -o ndjson --since start',
    },
    { about: 'reload nginx after each change to an infra VM', command: 'vreg watch infra -- systemctl reload nginx' },
  ],
  exits: [2, 8],
  async run(context, args, { id, status, since, heartbeats }) {
    const { role, command } = splitCommand(context, args, 'watch');
    const roles = role === undefined ? undefined : requireRoles([role]).join(',');
    if (since !== undefined && !/^(start|\d\S*)$/.test(since)) {
      throw new VregError('USAGE', `invalid --since "${since}"`, {
        field: 'since',
        hint: 'use "start" or a position from vreg history ID or vreg watch -o ndjson',
      });
    }
    let begun = false;
    let idWidth = context.io.width < CHANGES_FIT ? 'ID'.length : ID_WIDTH;
    for await (const event of watchEvents(context, { role: roles, id, status: status?.join(','), since, heartbeats })) {
      if (event.type === 'synced') continue;
      if (event.type === 'reset' && since !== 'start')
        context.note('missed events are no longer available: the full state follows');
      if (command.length > 0) await runFor(context, event, command);
      else {
        idWidth = Math.max(idWidth, fieldsOf(event).id.length);
        if (await show(context, event, begun, idWidth)) begun = true;
      }
    }
  },
});

type Fields = ReturnType<typeof fieldsOf>;

/** Initial width of the column ID on a terminal, which grows with longer ids. On a narrow terminal, it grows from its title. */
const ID_WIDTH = 20;
/** Columns of a terminal that has space for WHEN, EVENT, most of a UUID, and a change such as `status: running → paused`. */
const CHANGES_FIT = 80;
/** Columns of a terminal that has space for the same with a whole UUID. */
const UUID_FITS = 100;

/** Events are printed one by one, so the widths on a terminal are those of typical values. */
const COLUMNS: readonly Column<Fields>[] = [
  { title: 'WHEN', priority: 2, width: '59m59s ago'.length, cell: ({ at }) => (at === '' ? '' : { time: at }) },
  { title: 'EVENT', priority: 3, width: 12, minimum: 12, cell: ({ type }) => type },
  { title: 'ID', priority: 4, width: ID_WIDTH, cell: ({ id }) => id },
  { title: 'ROLE', priority: 1, width: 10, cell: ({ role }) => role },
  { title: 'STATUS', priority: 1, width: 7, cell: ({ status }) => status },
  { title: 'ADDRESS', width: 20, cell: ({ address }) => address },
];
const POSITION: Column<Fields> = { title: 'POSITION', width: 24, cell: ({ position }) => position };
const CHANGES: Column<Fields> = { title: 'CHANGES', priority: 3, width: 60, cell: ({ changes }) => changes };

/** A terminal shows what changed; TSV has the position, with which a script can resume. */
function columnsFor({ io, format }: Context, idWidth: number): readonly Column<Fields>[] {
  if (!io.tty || format === 'tsv') return [...COLUMNS, POSITION];
  const idSize = { width: idWidth, ...(io.width < UUID_FITS && { minimum: 20 }) };
  const columns = COLUMNS.map((column) => (column.title === 'ID' ? { ...column, ...idSize } : column));
  const minimum = io.width < CHANGES_FIT ? Math.floor(io.width / 4) : 'status: running → paused'.length;
  return [...columns, { ...CHANGES, minimum }, { ...POSITION, wide: true }];
}

/**
 * @param idWidth width of the column ID
 * @returns true if it printed a line
 */
async function show(context: Context, event: StreamEvent, continued: boolean, idWidth: number): Promise<boolean> {
  // A reset has no fields to print; the entries follow as events.
  if (isTextFormat(context.format) && event.type === 'reset') return false;
  // A stream has no end, so JSON is printed as one event per line.
  if (context.format === 'json') {
    context.io.out(`${escapeControls(JSON.stringify(event))}\n`);
    return true;
  }
  const fault = faultOf(event);
  if (fault !== undefined && context.format !== 'ndjson' && context.format !== 'yaml') context.note(fault);
  // An expression may consist of the field that scripts must not get.
  if (fault !== undefined && context.format.includes('=')) return false;
  await context.print({
    kind: 'rows',
    rows: [fieldsOf(event)],
    columns: columnsFor(context, idWidth),
    name: ({ id }) => id,
    single: true,
    continued,
    data: () => (context.format.includes('=') ? eventForScripts(event) : event),
  });
  return true;
}

async function runFor(context: Context, event: StreamEvent, command: readonly string[]): Promise<void> {
  const { type, id, name, role, status, address, position } = fieldsOf(event);
  const fault = faultOf(event);
  if (fault !== undefined) {
    context.note(`${fault}; the command does not run for the event ${type}`);
    return;
  }
  const env = {
    VREG_EVENT: type,
    VREG_REVISION: 'revision' in event ? String(event.revision) : '',
    VREG_POSITION: printable(position),
    VREG_VM_ID: id,
    // Another registry may send control characters, and a NUL would prevent the start of the command.
    VREG_VM_NAME: printable(name),
    VREG_VM_ROLE: printable(role),
    VREG_VM_STATUS: printable(status),
    VREG_VM_ADDRESS: address,
  };
  const { code } = await runChild(context, command, { env, input: `${JSON.stringify(event)}\n` });
  context.signal.throwIfAborted();
  if (code !== 0) context.note(`${command[0]} exited with ${code} for ${[type, id].join(' ').trim()}`);
}

/** Why scripts must not act on the VM of an event; undefined if they may. */
function faultOf(event: StreamEvent): string | undefined {
  if ('vm' in event) return forScripts(event.vm).fault?.message;
  return event.type === 'heartbeat' ? idFault(event.id)?.message : undefined;
}

function fieldsOf(event: StreamEvent) {
  const { position = '' } = 'revision' in event ? event : {};
  if ('vm' in event) {
    const { address } = forScripts(event.vm).row;
    return { type: event.type, at: event.at, ...event.vm, address, position, changes: changesOf(event) };
  }
  const heartbeat = event.type === 'heartbeat' ? { id: event.id, at: event.lastSeen } : { id: '', at: '' };
  return { type: event.type, name: '', role: '', status: '', address: '', position, changes: '', ...heartbeat };
}

/** `status: running → paused`; for a VM that was added or removed, its name, role and status. */
function changesOf({ type, vm, changes }: VmEvent): string {
  if (type === 'registered' || type === 'deregistered')
    return `name: ${vm.name}, role: ${vm.role}, status: ${vm.status}`;
  return formatChanges(changes ?? {}, '→');
}
