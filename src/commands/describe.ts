import { type Context, defineCommand } from '../command.ts';
import { isTextFormat } from '../config/settings.ts';
import { formatAge } from '../config/values.ts';
import { Describer, type Description } from '../fleet/description.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import {
  changesForScripts,
  conflictForScripts,
  formatChanges,
  type HistoryItem,
  nameOfChange,
} from '../protocol/events.ts';
import { livenessOf } from '../protocol/liveness.ts';
import type { TokenInfo } from '../protocol/token.ts';
import { forScripts, type Service } from '../protocol/vm.ts';
import { type Field, formatSections, inlineValue, type Section } from '../render/sections.ts';
import type { RowsAnswer } from '../render.ts';
import { each, throwFailed } from '../run/batch.ts';

/** Maximum number of children to show as text; `vreg tree` shows the others. */
const MAX_CHILDREN = 20;

export const describe = defineCommand({
  name: 'describe',
  summary: 'show everything that the registry knows about a VM',
  description:
    'Shows the entry of a VM, why discover includes or omits it, its metadata, services with their health, parent and children, tokens, conflicts and last changes. Parts that the registry does not support or the token may not read are left out: a list of tokens requires the scope admin.',
  arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
  examples: [
    { about: 'one VM', command: 'vreg describe abc-123-def' },
    { about: 'why discover omits it', command: 'vreg describe abc-123-def -o json | jq .why.reasons' },
    { about: 'the ids of its children', command: "vreg describe abc-123-def -o jsonpath='$.children[*].id'" },
  ],
  exits: [2, 3, 8],
  async run(context, ids) {
    const describer = new Describer(context.client());
    const { done, failed } = await each(context, ids, (id) => describer.describe(id));
    if (isTextFormat(context.format) && context.format !== 'name') await printText(context, done);
    else if (done.length > 0)
      await context.print(answerOf(done, { single: ids.length === 1, now: context.client().server.now }));
    throwFailed(context, ids.length, failed, (id) => id);
  },
});

/** @param options `now` is in milliseconds since the epoch, by the clock of the registry */
function answerOf(
  descriptions: readonly Description[],
  { single, now }: { single: boolean; now: number },
): RowsAnswer<Description> {
  const entry = (vm: VmWithLiveness) => vmsAnswer([vm], { now }).data!(vm) as object;
  return {
    kind: 'rows',
    rows: descriptions,
    columns: [],
    name: ({ vm }) => vm.id,
    single,
    // The other parts are beside the fields of the entry, so that a path for `vreg get` also works here.
    data: ({ vm, why, parent, children, tokens, conflicts, history }) => ({
      ...entry(vm),
      ...(why && { why }),
      ...(parent !== undefined && { parent: parent && entry(parent) }),
      ...(children && { children: children.map(entry) }),
      ...(tokens && { tokens }),
      ...(conflicts && { conflicts }),
      ...(history && { history }),
    }),
    forScripts: descriptionForScripts,
  };
}

/** A description as scripts may get it. Without the parent and children that they must not get. */
function descriptionForScripts(description: Description) {
  const { parent, children, conflicts, history } = description;
  const { row: vm, fault } = forScripts(description.vm);
  const row: Description = {
    ...description,
    vm,
    parent: parent && usable(parent)[0],
    children: children?.flatMap(usable),
    conflicts: conflicts?.map(conflictForScripts),
    history: history?.map((item) => ({ ...item, changes: changesForScripts(item.changes) })),
  };
  return { row, fault };
}

function usable(vm: VmWithLiveness): VmWithLiveness[] {
  const { row, fault } = forScripts(vm);
  return fault ? [] : [row];
}

async function printText(context: Context, descriptions: readonly Description[]): Promise<void> {
  const { io } = context;
  let separator = '';
  for (const description of descriptions) {
    // In a pipe, the text goes to a script.
    const { row, fault } = io.tty ? { row: description, fault: undefined } : descriptionForScripts(description);
    const isOmitted = fault?.field === 'id';
    if (fault) context.note(`${fault.message}${isOmitted ? '; it is omitted' : ''}`);
    if (isOmitted) continue;
    io.out(separator + (await formatSections(io, fieldsOf(context, row), sectionsOf(row), context.now())));
    separator = '\n';
  }
}

function fieldsOf(context: Context, { vm, why, parent, conflicts }: Description): Field[] {
  const time = (at: string) => {
    const age = context.now() - Date.parse(at);
    return context.io.tty && !Number.isNaN(age) ? `${at} (${formatAge(age)})` : at;
  };
  const fields: Field[] = [
    { label: 'ID', text: vm.id },
    { label: 'Name', text: vm.name },
    { label: 'Role', text: vm.role },
    { label: 'Status', text: vm.status },
    { label: 'Live', text: livenessOf(vm) },
    { label: 'Last seen', text: time(vm.lastSeen) },
  ];
  if (why) fields.push({ label: 'Offered', text: offerOf(vm, why) });
  fields.push({ label: 'Address', text: vm.address });
  if (vm.parentId !== undefined) fields.push({ label: 'Parent', text: parentOf(vm.parentId, parent) });
  fields.push({ label: 'Registered', text: `${time(vm.registeredAt)} by ${vm.registeredBy}` });
  const open = (conflicts ?? []).filter(({ state }) => state === 'open').length;
  if (open > 0) fields.push({ label: 'Conflicts', text: `${open} open: see vreg conflicts ${vm.id}` });
  return fields;
}

/** `yes: it is running and …`. Removes the part of the summary that repeats the role and the id. */
function offerOf({ id, role }: VmWithLiveness, { offered, summary }: NonNullable<Description['why']>): string {
  const prefix = `discover ${role} ${offered ? 'offers' : 'does not offer'} ${id}: `;
  return `${offered ? 'yes' : 'no'}: ${summary.startsWith(prefix) ? summary.slice(prefix.length) : summary}`;
}

function parentOf(id: string, parent: Description['parent']): string {
  if (parent === undefined) return id;
  if (parent === null) return `${id} (not registered)`;
  return `${id} (${parent.name}, ${parent.role}, ${livenessOf(parent)})`;
}

function sectionsOf({ vm, children, tokens, history }: Description): Section[] {
  const { metadata, services, health = {} } = vm;
  const sections: Section[] = [
    {
      title: 'Metadata',
      content: Object.entries(metadata ?? {}).map(([key, value]) => ({ label: key, text: inlineValue(value) })),
    },
    { title: 'Services', content: servicesTable(Array.isArray(services) ? services : [], health) },
  ];
  if (vm.reefConfig) {
    const content = Object.entries(vm.reefConfig).map(([key, value]) => ({ label: key, text: inlineValue(value) }));
    sections.push({ title: 'Reef config', content });
  }
  if (children) {
    const rest = children.length - MAX_CHILDREN;
    const content = vmsAnswer(children.slice(0, MAX_CHILDREN));
    sections.push({
      title: 'Children',
      content,
      ...(rest > 0 && { more: `and ${rest} more: see vreg tree ${vm.id}` }),
    });
  }
  if (tokens) sections.push({ title: 'Tokens', content: tokensTable(tokens) });
  if (history) sections.push({ title: 'Last changes', content: historyTable(history) });
  return sections;
}

function servicesTable(services: readonly Service[], health: Readonly<Record<string, string>>): RowsAnswer<Service> {
  return {
    kind: 'rows',
    rows: services.filter((service) => typeof service === 'object' && service !== null),
    columns: [
      { title: 'NAME', cell: ({ name }) => name },
      { title: 'PORT', cell: ({ port }) => port },
      { title: 'HEALTH', cell: ({ name }) => (Object.hasOwn(health, name) ? healthCell(health[name]!) : '-') },
      {
        title: 'OTHER FIELDS',
        cell: ({ name: _name, port: _port, ...rest }) =>
          Object.entries(rest)
            .map(([key, value]) => `${key}=${inlineValue(value)}`)
            .join(', ') || '-',
      },
    ],
    name: ({ name }) => name,
  };
}

function healthCell(text: string) {
  return { text, color: text === 'passing' ? 'green' : 'yellow' } as const;
}

function tokensTable(tokens: readonly TokenInfo[]): RowsAnswer<TokenInfo> {
  return {
    kind: 'rows',
    rows: tokens,
    columns: [
      { title: 'NAME', cell: ({ name }) => name },
      { title: 'SCOPE', cell: ({ scope }) => scope },
      { title: 'CREATED', cell: ({ createdAt }) => ({ time: createdAt }) },
      { title: 'CREATED BY', cell: ({ createdBy }) => createdBy },
      { title: 'EXPIRES', cell: ({ expiresAt }) => expiresAt ?? 'never' },
      { title: 'LAST USED', cell: ({ lastUsedAt }) => (lastUsedAt === undefined ? 'never' : { time: lastUsedAt }) },
      { title: 'FROM', cell: ({ lastUsedFrom }) => lastUsedFrom ?? '-' },
    ],
    name: ({ name }) => name,
  };
}

function historyTable(history: readonly HistoryItem[]): RowsAnswer<HistoryItem> {
  return {
    kind: 'rows',
    rows: history,
    columns: [
      { title: 'WHEN', cell: ({ at }) => ({ time: at }) },
      { title: 'WHAT', cell: ({ type }) => type },
      { title: 'WHO', cell: ({ by }) => by },
      { title: 'CHANGES', cell: changesOf },
    ],
    name: nameOfChange,
  };
}

/** A registration or removal contains every field of the entry, so it has no changes to show. */
function changesOf({ type, changes }: HistoryItem): string {
  return type === 'registered' || type === 'deregistered' ? '-' : formatChanges(changes) || '-';
}
