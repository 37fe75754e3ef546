import { type Context, defineCommand } from '../command.ts';
import { isTextFormat } from '../config/settings.ts';
import { insteadOf, isLimited, type OwnStatus, readOwnStatus } from '../fleet/own-status.ts';
import {
  type CloneVerdict,
  cloneVerdict,
  findAgent,
  lacksAgent,
  otherRegistryOf,
  readSelf,
  SELF_SETTINGS,
  type Self,
  unconfiguredIds,
  verdictText,
} from '../fleet/self.ts';
import { separate } from '../fleet/usable.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError, withMessage } from '../protocol/errors.ts';
import { type Liveness, livenessOf } from '../protocol/liveness.ts';
import type { Whoami } from '../protocol/token.ts';
import { fieldForScripts, idFault } from '../protocol/vm.ts';
import { type Field, formatSections } from '../render/sections.ts';
import { isAway } from '../run/retry.ts';

/** The parts of the answer that only the registry knows. Absent if it is unreachable. */
interface Known extends OwnStatus {
  /** Other VMs with the same parent, oldest registration first; null if the token may not read them. */
  siblings: readonly VmWithLiveness[] | null;
}

export const whoami = defineCommand({
  name: 'whoami',
  summary: 'show which VM this is, and which token it uses',
  description:
    'Shows the id of this VM and where it comes from, its incarnation, parent and siblings, since when and at which registry it is registered, whether it is a clone, the addresses of infra, and the name and scope of the token: that of the settings or, if it is missing, refused or may only enrol, that of the agent. While the registry is unreachable, the answer is that of the state of the agent, and the exit code is 8, or 5 if neither a registry nor an id is configured and no agent has stored a state. The exit code is 9 if another VM holds the id. -q prints only the id under which this VM continues, which differs from the configured one if its agent has found that it is a clone.',
  settings: SELF_SETTINGS,
  examples: [
    { about: 'this VM and its token', command: 'vreg whoami' },
    { about: 'the id of this VM', command: 'ID=$(vreg whoami -q)' },
    { about: 'fail unless the token may write', command: 'vreg whoami -o json | jq -e \'.token.scope == "write"\'' },
  ],
  exits: [2, 8, 9],
  async run(context) {
    const self = await readSelf(context.config);
    if (self.fault !== undefined) context.note(`${self.fault}; the answer lacks the state of the agent`);
    // Reject invalid settings before anything is printed.
    context.client();
    const others = await unconfiguredIds(context.config, self);
    if (others.length > 0)
      context.note(
        `no id is configured (VERS_VM_ID), so the answer is for the host name; agents on this machine run for: ${others.join(', ')}`,
      );
    // Without a state no agent of this VM has reached a registry.
    const agent = self.state && (await findAgent(context.config, self));
    const elsewhere = agent && otherRegistryOf(agent, context.client());
    if (elsewhere !== undefined)
      context.note(
        `the agent of this VM sends heartbeats to ${elsewhere}; if that is another registry: vreg daemon stop agent, then vreg daemon agent --detach`,
      );
    let outage: VregError | undefined;
    const known = await ask(context, self).catch((error: unknown) => {
      if (!(error instanceof VregError)) throw error;
      outage = error;
      return undefined;
    });
    const isDefault = context.config.find('url')!.origin === 'default' && outage?.code === 'UNREACHABLE';
    if (outage && isDefault && isUnknown(self)) throw nothingKnown(context, outage);
    const verdict = known?.verdict ?? cloneVerdict(self, []);
    await printAnswer(context, self, verdict, known, !isAway(outage, context.client().server));
    if (outage) {
      const source = self.state ? `the state of the agent in ${self.state.dir}` : 'the settings of this VM';
      const why = isDefault ? `no registry is configured (VERS_INFRA_URL), and ${outage.message}` : outage.message;
      const unreachable = withMessage(outage, `${why}; the answer is from ${source}`);
      if (verdict !== 'clone') throw unreachable;
      context.note(unreachable.message);
    }
    if (verdict === 'clone')
      throw new VregError('IDENTITY_CONFLICT', `this VM is a clone: another VM holds the id "${self.id}"`, {
        field: 'id',
        hint: `show both: vreg conflicts ${self.id}; to continue under a new id: vreg daemon agent --on-clone rebirth --detach; to continue as "${self.id}" if the other VM is gone: vreg daemon agent --detach`,
      });
  },
});

/** True if neither the settings nor an agent say which VM this is. */
function isUnknown({ idOrigin, state, fault }: Self): boolean {
  return idOrigin === 'the host name' && state === undefined && fault === undefined;
}

function nothingKnown({ config }: Context, cause: VregError): VregError {
  const { value: url } = config.find('url')!;
  const message = `no registry and no id are configured, no registry responds at the default URL ${url}, and no agent has stored which VM this is`;
  const hint =
    'set VERS_INFRA_URL to the URL of the registry and VERS_VM_ID to the id of this VM, or start a registry: vreg daemon';
  return new VregError('USAGE', message, { field: 'url', hint, cause });
}

/** @throws the client's errors */
async function ask(context: Context, self: Self): Promise<Known> {
  const client = context.client();
  const status = await askWithOwnToken(context, self);
  const { entry, token } = status;
  const parent = entry?.parentId ?? self.parentId;
  const canAsk = (await client.isVreg()) && parent !== undefined && !idFault(parent);
  // The parent may not be registered.
  const family = canAsk ? await client.children(parent).catch(insteadOf({ FORBIDDEN: null, NOT_FOUND: [] })) : [];
  const siblings = family && !isLimited(token) ? separate(family).usable.filter(({ id }) => id !== self.id) : null;
  return { ...status, siblings };
}

/**
 * As `readOwnStatus`, with the token that this VM has received if the settings contain none, one that the registry refuses, or an enrol
 * token, which may read nothing.
 * @throws the client's errors
 */
async function askWithOwnToken(context: Context, self: Self): Promise<OwnStatus> {
  const client = context.client();
  const bearer = self.state?.content.bearer;
  const ask = () => readOwnStatus(client, self);
  if (bearer === undefined) return ask();
  if (context.config.clientToken() !== undefined) {
    const status = await ask().catch(insteadOf({ UNAUTHORIZED: undefined }));
    if (status && status.token?.scope !== 'enrol') return status;
  }
  client.useToken(bearer);
  return ask().catch((error: unknown) => {
    // The token was revoked.
    if (!(error instanceof VregError) || error.code !== 'UNAUTHORIZED') throw error;
    client.useToken(undefined);
    return ask();
  });
}

async function printAnswer(
  context: Context,
  self: Self,
  verdict: CloneVerdict,
  known: Known | undefined,
  isReachable: boolean,
) {
  const { format } = context;
  if (isTextFormat(format) && format !== 'name') {
    // The original registry has no tokens of this kind.
    const lacks =
      verdict === 'unproven' && (await lacksAgent(context.config, self, !known || known.token !== undefined));
    const clone = verdictText(verdict, known?.conflictsUnknown, lacks);
    const fields = fieldsOf(context, self, clone, known, isReachable);
    // Outside of a terminal, one line for each field, as in the TSV of all commands.
    if (context.io.tty || format === 'table' || format === 'wide')
      return context.io.out(await formatSections(context.io, fields, [], context.now()));
    return context.print({
      kind: 'rows',
      rows: fields,
      columns: [
        { title: 'FIELD', cell: ({ label }) => label },
        { title: 'VALUE', cell: ({ text }) => text },
      ],
      name: ({ text }) => text,
    });
  }
  await context.print({ kind: 'value', text: self.id, data: dataOf(context, self, verdict, known, isReachable) });
}

function dataOf(context: Context, self: Self, verdict: CloneVerdict, known: Known | undefined, isReachable: boolean) {
  const { configuredId, idOrigin, id, state } = self;
  const parentId = fieldForScripts('parentId', known?.entry?.parentId ?? self.parentId);
  return {
    vm: {
      id,
      ...(id === configuredId ? {} : { configuredId }),
      idOrigin,
      incarnation: state?.content.incarnation ?? null,
      clone: verdict,
      parentId: parentId ?? null,
      ...(known
        ? {
            conflictsKnown: known.conflictsUnknown === undefined,
            siblings: known.siblings?.map((vm) => vm.id) ?? null,
            registered: known.entry === null ? null : known.entry !== undefined,
            registeredAt: known.entry?.registeredAt ?? null,
            live: liveOf(known) ?? null,
          }
        : {}),
    },
    registry: { url: context.client().url, reachable: isReachable },
    ...(known ? { infra: known.infra?.map(({ address }) => address) ?? null, token: known.token ?? null } : {}),
  };
}

function liveOf({ entry }: Known): Liveness | undefined {
  return entry ? livenessOf(entry) : undefined;
}

function fieldsOf(
  context: Context,
  self: Self,
  clone: string,
  known: Known | undefined,
  isReachable: boolean,
): Field[] {
  const { id, configuredId, idOrigin, parentId, state } = self;
  const { url } = context.client();
  const was = id === configuredId ? `from ${idOrigin}` : `was ${configuredId}, from ${idOrigin}`;
  const fields: (Field | false)[] = [
    { label: 'VM', text: `${id} (${was})` },
    { label: 'Clone', text: clone },
    { label: 'Incarnation', text: state?.content.incarnation ?? '-' },
    { label: 'Parent', text: known?.entry?.parentId ?? parentId ?? '-' },
    known !== undefined && { label: 'Siblings', text: listOf(known.siblings?.map((vm) => vm.id)) },
    { label: 'Registry', text: isReachable ? url : `${url} (unreachable)` },
    known !== undefined && {
      label: 'Registered',
      text: known.entry === null ? HIDDEN : (known.entry?.registeredAt ?? 'no'),
    },
    known?.entry != null && { label: 'Live', text: livenessOf(known.entry) },
    known !== undefined && { label: 'Infra', text: listOf(known.infra?.map(({ address }) => address)) },
    known?.token !== undefined && { label: 'Token', text: describeToken(known.token) },
  ];
  return fields.filter((field) => field !== false);
}

const HIDDEN = 'unknown (not allowed)';

function listOf(values: readonly string[] | undefined): string {
  return values === undefined ? HIDDEN : values.join(', ') || '-';
}

/** `ops: scope write, VM vm-1, expires 2026-01-01T00:00:00.000Z` */
function describeToken({ name, scope, vm, role, expiresAt }: Whoami): string {
  const limits = [vm && `VM ${vm}`, role && `role ${role}`, expiresAt && `expires ${expiresAt}`];
  return [`${name}: scope ${scope}`, ...limits.filter((limit) => limit)].join(', ');
}
