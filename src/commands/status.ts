import type { RegistryClient } from '../client.ts';
import { defineCommand } from '../command.ts';
import { isTextFormat } from '../config/settings.ts';
import { describeClaim } from '../fleet/other-registry.ts';
import type { Health, ReplicaInfo, VmWithLiveness } from '../protocol/api.ts';
import { formatDuration } from '../protocol/duration.ts';
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
    'Shows whether the registry is reachable, the number of VMs by role, and the suspect and stale VMs with the time since they were last seen. A suspect VM fell silent together with a large share of the fleet; discover still returns it. After a restart or a pause of the registry, also shows how long its answers may include dead VMs. If its disk is full or fails, shows that. If several replicas share the store of the registry, lists them and shows which one answered; one that was killed disappears within 30 s. -q prints only the ids of the stale VMs.',
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
    const degraded = version === undefined ? undefined : await degradation(client);
    const replicas = version === undefined ? [] : await replicasOf(client);
    const roles = ROLES.map((role) => count(role, vms)).filter((row) => LIVENESS.some((liveness) => row[liveness] > 0));
    const silent = (liveness: Liveness) =>
      vms.filter((vm) => livenessOf(vm) === liveness).sort((a, b) => (a.lastSeen < b.lastSeen ? -1 : 1));
    const [suspect, stale] = [silent('suspect'), silent('stale')];
    if (!isTextFormat(context.format)) {
      const registry = {
        url: client.url,
        ...(client.urls.length > 1 ? { urls: client.urls } : {}),
        version: version ?? null,
        status: health.status,
        uptime: health.uptime,
        ...(warming === undefined ? {} : { warmingSeconds: warming }),
        ...(otherRegistry ? { otherRegistry } : {}),
        ...(degraded === undefined ? {} : { degraded }),
        ...(replicas.length === 0 ? {} : { replicas }),
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
    await context.print({ kind: 'value', text: registryLine(placeOf(client), version, health), data: null });
    if (warming !== undefined) await context.print({ kind: 'value', text: warmingLine(warming), data: null });
    if (otherRegistry)
      await context.print({
        kind: 'value',
        text: `warning: ${describeClaim(otherRegistry)}: see vreg conflicts`,
        data: null,
      });
    if (degraded !== undefined) await context.print({ kind: 'value', text: `degraded: ${degraded}`, data: null });
    if (replicas.length > 0) {
      await context.print({
        kind: 'rows',
        rows: replicas,
        columns: replicaColumns(now),
        name: ({ id }) => id,
      });
      context.io.out('\n');
    }
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

function replicaColumns(now: number): readonly Column<ReplicaInfo>[] {
  return [
    { title: 'REPLICA', cell: ({ url, id }) => url ?? id },
    { title: 'HOST', cell: ({ host }) => host ?? '-' },
    { title: 'VERSION', cell: ({ version }) => version ?? '-' },
    { title: 'UP', cell: ({ since }) => (since === undefined ? '-' : formatDuration(now - Date.parse(since))) },
    { title: 'ANSWERED', cell: ({ answered }) => (answered ? 'yes' : '-') },
  ];
}

function count(role: Role, vms: readonly VmWithLiveness[]): RoleCount {
  const row: RoleCount = { role, live: 0, suspect: 0, stale: 0, paused: 0, stopped: 0 };
  for (const vm of vms) if (vm.role === role) row[livenessOf(vm)]++;
  return row;
}

/** The URL that responded, and its place among several. */
function placeOf({ url, urls }: RegistryClient): string {
  return urls.length > 1 ? `${url} (URL ${urls.indexOf(url) + 1} of ${urls.length})` : url;
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

/** @returns none also if they cannot be read: the token may not, or the daemon is older */
async function replicasOf(client: RegistryClient): Promise<ReplicaInfo[]> {
  try {
    return await client.replicas();
  } catch (error) {
    if (error instanceof VregError) return [];
    throw error;
  }
}

/** @returns why the store cannot be read or written, or undefined if it can, or an older daemon cannot say */
async function degradation(client: RegistryClient): Promise<string | undefined> {
  const checks = await client.readinessChecks();
  return checks?.find(({ name, result }) => ['store', 'writes'].includes(name) && result !== 'ok')?.reason;
}

function colored(amount: number, color: 'green' | 'yellow'): Cell {
  return amount > 0 ? { text: String(amount), color } : amount;
}
