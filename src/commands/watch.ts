import { runChild, splitCommand } from '../child.ts';
import { type Context, defineCommand } from '../command.ts';
import { requireRole } from '../live.ts';
import type { StreamEvent, VmEvent } from '../protocol/events.ts';
import { ROLES, STATUSES } from '../protocol/vm.ts';
import { watchEvents } from '../watch.ts';

interface Flags {
  id?: string;
  status?: string;
  since?: string;
  heartbeats?: boolean;
}

export const watch = defineCommand<Flags>({
  name: 'watch',
  summary: 'show what happens in the registry, as it happens',
  description:
    'Shows what happens, one event a line, until it is stopped: registered, updated, status, deregistered, stale, revived. A broken connection is taken up again without a gap. A command behind -- runs for each event, one after the other, with the event as JSON on its stdin and in VREG_EVENT, VREG_REVISION, VREG_VM_ID, VREG_VM_NAME, VREG_VM_ROLE, VREG_VM_STATUS and VREG_VM_ADDRESS.',
  arguments: [
    { name: 'role', about: 'only this role', optional: true, values: ROLES },
    { name: 'command', about: 'behind --: what to run for each event', optional: true, variadic: true },
  ],
  flags: [
    { flags: '--id <id>', about: 'only this VM', values: 'ids' },
    { flags: '--status <status>', about: 'only VMs of this status', values: STATUSES },
    { flags: '--since <revision>', about: 'begin after that revision; "start" tells the full state first' },
    { flags: '--heartbeats', about: 'tell of heartbeats, too' },
  ],
  examples: [
    { about: 'what goes on?', command: 'vreg watch' },
    { about: 'workers, for a program', command: 'vreg watch worker -o ndjson --since start' },
    { about: 'a reload for each change of an infra VM', command: 'vreg watch infra -- systemctl reload nginx' },
  ],
  exits: [2, 8],
  async run(context, args, { id, status, since, heartbeats }) {
    const { before, command } = splitCommand(context, args);
    const [role] = before;
    if (role !== undefined) requireRole(role);
    for await (const event of watchEvents(context, { role, id, status, since, heartbeats })) {
      if (event.type === 'synced') continue;
      if (event.type === 'reset' && since !== 'start')
        context.note('what was missed is no longer known: the full state follows');
      if (command.length > 0) await runFor(context, event, command);
      else await show(context, event);
    }
  },
});

async function show(context: Context, event: StreamEvent): Promise<void> {
  const { type, at, id, role, status, address } = fieldsOf(event);
  const isTable = context.io.tty && context.format === 'table';
  const cells = isTable ? [at, type.padEnd(12), id, role, status, address] : [at, type, id, role, status, address];
  // A reset has nothing to show in a line; the entries that follow it have.
  const text = context.format === 'name' ? id : cells.join(isTable ? '  ' : '\t');
  const isText = ['table', 'wide', 'tsv', 'name'].includes(context.format);
  if (isText && event.type === 'reset') return;
  if (context.format === 'json') return context.io.out(`${JSON.stringify(event)}\n`);
  await context.print({ kind: 'value', text, data: event });
}

async function runFor(context: Context, event: StreamEvent, command: readonly string[]): Promise<void> {
  const { type, id, name, role, status, address } = fieldsOf(event);
  const env = {
    VREG_EVENT: type,
    VREG_REVISION: 'revision' in event ? String(event.revision) : '',
    VREG_VM_ID: id,
    VREG_VM_NAME: name,
    VREG_VM_ROLE: role,
    VREG_VM_STATUS: status,
    VREG_VM_ADDRESS: address,
  };
  const code = await runChild(context, command, { env, input: `${JSON.stringify(event)}\n` });
  if (code !== 0) context.note(`${command[0]} ended with ${code} on ${type} ${id}`);
}

function fieldsOf(event: StreamEvent) {
  const { vm } = event as Partial<VmEvent>;
  if (vm) return { type: event.type, at: (event as VmEvent).at, ...vm };
  const beat = event.type === 'heartbeat' ? { id: event.id, at: event.lastSeen } : { id: '', at: '' };
  return { type: event.type, name: '', role: '', status: '', address: '', ...beat };
}
