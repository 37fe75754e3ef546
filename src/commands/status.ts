import type { RegistryClient } from '../client.ts';
import { defineCommand } from '../command.ts';
import { isTextFormat } from '../config/settings.ts';
import { formatDuration } from '../config/values.ts';
import { describeClaim } from '../fleet/other-registry.ts';
import type { Health, VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import type { OtherRegistry } from '../protocol/heartbeat.ts';
import { ageOf, LIVENESS, type Liveness, livenessOf } from '../protocol/liveness.ts';
import { idFault, ROLES, type Role } from '../protocol/vm.ts';
import type { Cell, Column } from '../render.ts';

type RoleCount = { role: Role } & Record<Liveness, number>;

export const status = defineCommand({
  name: 'status',
  summary: 'show the state of the registry and the fleet',
  description:
    'Shows whether the registry is reachable, the number of VMs by role, and the suspect and stale VMs with the time since they were last seen. A suspect VM fell silent together with a large share of the fleet; discover still returns it. After a restart or a pause of the registry, also shows how long its answers may include dead VMs. -q prints only the ids of the stale VMs.',
  examples: [
    { about: 'the state of registry and fleet', command: 'vreg status' },
    {
      about: 'the number of live workers',
      command: 'vreg status -o json | jq \'.roles[] | select(.role == "worker").live\'',
    },
    { about: 'check whether the registry is reachable', command: 'vreg status >/dev/null && echo yes' },
  ],
  exits: [2, 8],
  async run(context) {
    const client = context.client();
    const vms = await client.list();
    const { version, now, warming } = client.server;
    const health = await client.health();
    const otherRegistry = version === undefined ? undefined : await claimOfOtherRegistry(client);
    const roles = ROLES.map((role) => count(role, vms)).filter((row) => LIVENESS.some((liveness) => row[liveness] > 0));
    const silent = (liveness: Liveness) =>
      vms.filter((vm) => livenessOf(vm) === liveness).sort((a, b) => (a.lastSeen < b.lastSeen ? -1 : 1));
    const [suspect, stale] = [silent('suspect'), silent('stale')];
    if (!isTextFormat(context.format)) {
      const registry = {
        url: client.url,
        version: version ?? null,
        status: health.status,
        uptime: health.uptime,
        ...(warming === undefined ? {} : { warmingSeconds: warming }),
        ...(otherRegistry ? { otherRegistry } : {}),
      };
      const listOf = (vms: readonly VmWithLiveness[]) =>
        vms.map(({ id, name, role, lastSeen }) => ({ id, name, role, lastSeen, ageSeconds: ageOf({ lastSeen }, now) }));
      const dataOf = (isListed: (vm: VmWithLiveness) => boolean) => ({
        registry,
        roles,
        suspect: listOf(suspect.filter(isListed)),
        stale: listOf(stale.filter(isListed)),
      });
      return context.print({
        kind: 'value',
        text: '',
        data: dataOf(() => true),
        forScripts() {
          const faults = [...suspect, ...stale].flatMap(({ id }) => idFault(id) ?? []);
          return { data: dataOf(({ id }) => !idFault(id)), faults };
        },
      });
    }
    const silentAnswer = (title: string, vms: readonly VmWithLiveness[]) =>
      ({
        kind: 'rows',
        rows: vms,
        columns: silentColumns(title, now),
        name: ({ id }: VmWithLiveness) => id,
        forScripts: (row: VmWithLiveness) => ({ row, fault: idFault(row.id) }),
      }) as const;
    if (context.format === 'name') return context.print(silentAnswer('STALE VM', stale));
    await context.print({ kind: 'value', text: registryLine(client.url, version, health), data: null });
    if (warming !== undefined) await context.print({ kind: 'value', text: warmingLine(warming), data: null });
    if (otherRegistry)
      await context.print({
        kind: 'value',
        text: `warning: ${describeClaim(otherRegistry)}: see vreg conflicts`,
        data: null,
      });
    await context.print({ kind: 'rows', rows: roles, columns: ROLE_COLUMNS, name: ({ role }) => role, none: 'no VMs' });
    for (const answer of [silentAnswer('SUSPECT VM', suspect), silentAnswer('STALE VM', stale)]) {
      if (answer.rows.length === 0) continue;
      context.io.out('\n');
      await context.print(answer);
    }
  },
});

const ROLE_COLUMNS: readonly Column<RoleCount>[] = [
  { title: 'ROLE', cell: ({ role }) => role },
  { title: 'LIVE', cell: ({ live }) => colored(live, 'green') },
  { title: 'SUSPECT', cell: ({ suspect }) => colored(suspect, 'yellow') },
  { title: 'STALE', cell: ({ stale }) => colored(stale, 'yellow') },
  { title: 'PAUSED', cell: ({ paused }) => paused },
  { title: 'STOPPED', cell: ({ stopped }) => stopped },
];

function silentColumns(title: string, now: number): readonly Column<VmWithLiveness>[] {
  return [
    { title, cell: ({ id }) => id },
    { title: 'NAME', cell: ({ name }) => name },
    { title: 'ROLE', cell: ({ role }) => role },
    { title: 'SILENT FOR', cell: (vm) => formatDuration(1000 * (ageOf(vm, now) ?? 0)) },
  ];
}

function count(role: Role, vms: readonly VmWithLiveness[]): RoleCount {
  const row: RoleCount = { role, live: 0, suspect: 0, stale: 0, paused: 0, stopped: 0 };
  for (const vm of vms) if (vm.role === role) row[livenessOf(vm)]++;
  return row;
}

function registryLine(url: string, version: string | undefined, { uptime }: Health): string {
  const up = typeof uptime === 'number' ? `, up ${formatDuration(uptime * 1000)}` : '';
  return `registry ${url}: ok, ${version === undefined ? 'not a vreg daemon' : `vreg ${version}`}${up}`;
}

function warmingLine(seconds: number): string {
  return `warming: answers may include dead VMs for another ${formatDuration(seconds * 1000)}`;
}

/** @returns undefined also if the conflicts cannot be read: the token may not, or the daemon is older. The status does not need them. */
async function claimOfOtherRegistry(client: RegistryClient): Promise<OtherRegistry | undefined> {
  try {
    return (await client.conflicts()).otherRegistry;
  } catch (error) {
    if (error instanceof VregError) return undefined;
    throw error;
  }
}

function colored(amount: number, color: 'green' | 'yellow'): Cell {
  return amount > 0 ? { text: String(amount), color } : amount;
}
