import type { RegistryClient } from '../client.ts';
import { defineCommand } from '../command.ts';
import { isTextFormat } from '../config/settings.ts';
import { formatDuration } from '../config/values.ts';
import { describeClaim } from '../fleet/other-registry.ts';
import type { Health, VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import type { OtherRegistry } from '../protocol/heartbeat.ts';
import { ageOf, livenessOf } from '../protocol/liveness.ts';
import { idFault, ROLES, type Role } from '../protocol/vm.ts';
import type { Cell, Column } from '../render.ts';

interface RoleCount {
  role: Role;
  live: number;
  stale: number;
  paused: number;
  stopped: number;
}

export const status = defineCommand({
  name: 'status',
  summary: 'show the state of the registry and the fleet',
  description:
    'Shows whether the registry is reachable, the number of VMs by role, and the stale VMs with the time since they were last seen. -q prints only the ids of the stale VMs.',
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
    const { version, now } = client.server;
    const health = await client.health();
    const otherRegistry = version === undefined ? undefined : await claimOfOtherRegistry(client);
    const roles = ROLES.map((role) => count(role, vms)).filter(
      (row) => row.live + row.stale + row.paused + row.stopped > 0,
    );
    const stale = vms.filter((vm) => livenessOf(vm) === 'stale').sort((a, b) => (a.lastSeen < b.lastSeen ? -1 : 1));
    if (!isTextFormat(context.format)) {
      const registry = {
        url: client.url,
        version: version ?? null,
        status: health.status,
        uptime: health.uptime,
        ...(otherRegistry ? { otherRegistry } : {}),
      };
      const dataOf = (vms: readonly VmWithLiveness[]) => ({
        registry,
        roles,
        stale: vms.map(({ id, name, role, lastSeen }) => ({
          id,
          name,
          role,
          lastSeen,
          ageSeconds: ageOf({ lastSeen }, now),
        })),
      });
      return context.print({
        kind: 'value',
        text: '',
        data: dataOf(stale),
        forScripts() {
          const faults = stale.flatMap(({ id }) => idFault(id) ?? []);
          return { data: dataOf(stale.filter(({ id }) => !idFault(id))), faults };
        },
      });
    }
    const staleAnswer = {
      kind: 'rows',
      rows: stale,
      columns: staleColumns(now),
      name: ({ id }: VmWithLiveness) => id,
      forScripts: (row: VmWithLiveness) => ({ row, fault: idFault(row.id) }),
    } as const;
    if (context.format === 'name') return context.print(staleAnswer);
    await context.print({ kind: 'value', text: registryLine(client.url, version, health), data: null });
    if (otherRegistry)
      await context.print({
        kind: 'value',
        text: `warning: ${describeClaim(otherRegistry)}: see vreg conflicts`,
        data: null,
      });
    await context.print({ kind: 'rows', rows: roles, columns: ROLE_COLUMNS, name: ({ role }) => role, none: 'no VMs' });
    if (stale.length > 0) {
      context.io.out('\n');
      await context.print(staleAnswer);
    }
  },
});

const ROLE_COLUMNS: readonly Column<RoleCount>[] = [
  { title: 'ROLE', cell: ({ role }) => role },
  { title: 'LIVE', cell: ({ live }) => colored(live, 'green') },
  { title: 'STALE', cell: ({ stale }) => colored(stale, 'yellow') },
  { title: 'PAUSED', cell: ({ paused }) => paused },
  { title: 'STOPPED', cell: ({ stopped }) => stopped },
];

function staleColumns(now: number): readonly Column<VmWithLiveness>[] {
  return [
    { title: 'STALE VM', cell: ({ id }) => id },
    { title: 'NAME', cell: ({ name }) => name },
    { title: 'ROLE', cell: ({ role }) => role },
    { title: 'SILENT FOR', cell: (vm) => formatDuration(1000 * (ageOf(vm, now) ?? 0)) },
  ];
}

function count(role: Role, vms: readonly VmWithLiveness[]): RoleCount {
  const row: RoleCount = { role, live: 0, stale: 0, paused: 0, stopped: 0 };
  for (const vm of vms) {
    if (vm.role !== role) continue;
    const liveness = livenessOf(vm);
    // discover returns suspect VMs, so they count as live.
    row[liveness === 'suspect' ? 'live' : liveness]++;
  }
  return row;
}

function registryLine(url: string, version: string | undefined, { uptime }: Health): string {
  const up = typeof uptime === 'number' ? `, up ${formatDuration(uptime * 1000)}` : '';
  return `registry ${url}: ok, ${version === undefined ? 'not a vreg daemon' : `vreg ${version}`}${up}`;
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
