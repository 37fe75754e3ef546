/** Everything about one VM, as `vreg describe` shows it, and its timeline. */
import { signal, useSignal } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import { PATHS, type VmWithLiveness, type Why } from '../protocol/api.ts';
import type { History, RecentEvents, VmEvent } from '../protocol/events.ts';
import type { TokenInfo, Tokens } from '../protocol/token.ts';
import { ask } from './action-dialog.tsx';
import { titleOf, VM_ACTIONS } from './action-plan.ts';
import { coalesce } from './coalesce.ts';
import { ConflictCard } from './conflict-card.tsx';
import { conflicts } from './conflict-list.tsx';
import { shellWord } from './fleet-filter.ts';
import type { FleetRow } from './fleet-message.ts';
import { link, pulse, refusalOf, rows, structure } from './fleet-store.ts';
import { hrefOf, tableHref } from './hash-route.ts';
import { BASE, ifAllowed, messageOf, request } from './requests.ts';
import { numberText, timeText } from './times.ts';
import { MAX_ENTRIES, VmTimeline } from './vm-timeline.tsx';
import { Age, Fact, Notice, Refusal, Snippet, State, Untrusted, VmLink } from './widgets.tsx';

/** Children, services, and keys of the metadata that the page lists: a VM may have any number of them. */
const MAX_LISTED = 50;
/** Conflicts that the page lists: a conflict has many elements. */
const MAX_CONFLICTS = 10;

/** Parts beyond the entry. A part that the session may not read is undefined. */
interface Details {
  entry: VmWithLiveness;
  why: Why | undefined;
  history: History | undefined;
  recent: RecentEvents | undefined;
  tokens: readonly TokenInfo[] | undefined;
}

const details = signal<Details | undefined>(undefined);

async function read(id: string): Promise<Details> {
  const get = <T,>(path: string) => ifAllowed(request<T>('GET', path));
  const [entry, why, history, recent, tokens] = await Promise.all([
    request<VmWithLiveness>('GET', `${PATHS.vm(id)}?include=liveness`),
    get<Why>(PATHS.why(id)),
    get<History>(`${PATHS.history(id)}?limit=${MAX_ENTRIES}`),
    get<RecentEvents>(`${PATHS.recent}?id=${encodeURIComponent(id)}&limit=${MAX_ENTRIES}`),
    refusalOf('admin') === undefined ? get<Tokens>(PATHS.tokens) : undefined,
  ]);
  return {
    entry,
    why,
    history,
    recent,
    tokens: tokens?.tokens.filter(({ vm }) => vm === id),
  };
}

export function VmDetail({ id }: { id: string }) {
  const error = useSignal<string | undefined>(undefined);
  const row = rows.get(id);
  // The registry's answer changes with each change of the VM.
  structure.value;
  const isOutage = link.value.connection === 'reconnecting';
  const isLeft = useRef(false);
  useEffect(
    () => () => {
      isLeft.current = true;
    },
    [],
  );
  const refresh = useMemo(() => {
    return coalesce(async () => {
      if (isLeft.current) return;
      try {
        const found = await read(id);
        if (!isLeft.current) details.value = found;
        error.value = undefined;
      } catch (reason) {
        error.value = messageOf(reason);
      }
    });
  }, [id]);
  useEffect(() => {
    if (!isOutage) refresh();
  }, [refresh, row?.vm, row?.state, isOutage]);
  const known = details.value?.entry.id === id ? details.value : undefined;
  const vm = row?.vm ?? known?.entry;
  if (!vm) {
    return (
      <div class="view">
        <h1>
          <Untrusted text={id} />
        </h1>
        {link.value.connection === 'loading' || error.value === undefined ? (
          <p class="muted">Loading…</p>
        ) : (
          <Notice kind="error">
            <Untrusted text={error.value} />
          </Notice>
        )}
        <VmTimeline id={id} known={undefined} />
      </div>
    );
  }
  return (
    <div class="view view-detail">
      <p class="crumbs">
        <a href={tableHref.value}>VMs</a> / <Untrusted text={id} />
      </p>
      <header class="detail-header">
        <h1 tabIndex={-1}>
          <Untrusted text={vm.name} />
        </h1>
        {row && <State state={row.state} />}
        <span class="spacer" />
        <Actions row={row} id={id} />
      </header>
      {!row && link.value.connection === 'live' && <Notice kind="warning">This VM is no longer registered.</Notice>}
      {error.value !== undefined && row && (
        <Notice kind="error">
          <Untrusted text={error.value} />
        </Notice>
      )}
      <div class="detail-columns">
        <div>
          <Facts id={id} vm={vm} known={known} />
          <Services known={known} />
          <Pairs title="Metadata" values={vm.metadata} />
          <Pairs title="Reef config" values={vm.reefConfig} />
          <Family vm={vm} />
          <TokenList tokens={known?.tokens} />
        </div>
        <div>
          <ConflictClaims id={id} />
          <VmTimeline id={id} known={known} />
          <Commands id={id} vm={vm} />
        </div>
      </div>
    </div>
  );
}

function Actions({ row, id }: { row: FleetRow | undefined; id: string }) {
  const refusal = row ? refusalOf('write', row.vm) : 'the VM is not registered';
  return (
    <div class="actions">
      {VM_ACTIONS.map((name) => (
        <button
          key={name}
          type="button"
          class={name === 'remove' ? 'danger-quiet' : ''}
          disabled={refusal !== undefined}
          title={refusal ?? ''}
          onClick={() => ask(name, [id])}
        >
          {titleOf(name)}
        </button>
      ))}
      <Refusal text={refusal} />
    </div>
  );
}

interface Known {
  known: Details | undefined;
}

function Facts({ id, vm, known }: { id: string; vm: Details['entry'] | VmEvent['vm'] } & Known) {
  return (
    <section class="panel">
      <h2>Entry</h2>
      <dl class="facts">
        <Fact term="Id">
          <Untrusted text={vm.id} />
        </Fact>
        <Fact term="Role">
          <a href={hrefOf('vms', { q: `role:${vm.role}` })}>
            <Untrusted text={vm.role} />
          </a>
        </Fact>
        <Fact term="Status">{vm.status}</Fact>
        <Fact term="Last seen">
          <LastSeen id={id} />
        </Fact>
        <Fact term="Offered">{known?.why ? <Untrusted text={offerOf(known.why)} /> : '–'}</Fact>
        <Fact term="Address">
          <Untrusted text={vm.address} />
        </Fact>
        <Fact term="Registered">
          <time dateTime={vm.registeredAt}>{timeText(vm.registeredAt)}</time> by <Untrusted text={vm.registeredBy} />
        </Fact>
      </dl>
    </section>
  );
}

function LastSeen({ id }: { id: string }) {
  structure.value;
  pulse.value;
  const row = rows.get(id);
  if (!row) return <>–</>;
  return (
    <>
      <Age at={row.seen} /> ago <span class="muted">({timeText(row.seen)})</span>
    </>
  );
}

/** `yes: it is running and …`, without the part of the summary that repeats role and id. */
function offerOf({ offered, summary }: Why): string {
  return `${offered ? 'yes' : 'no'}: ${summary.replace(/^discover \S+ (?:offers|does not offer) .+?: (?=it )/s, '')}`;
}

function Services({ known }: Known) {
  const { services, health = {} } = known?.entry ?? {};
  if (!Array.isArray(services) || services.length === 0) return null;
  return (
    <section class="panel">
      <h2>Services</h2>
      <div class="scroll-x">
        <table class="plain">
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">Port</th>
              <th scope="col">Health</th>
              <th scope="col">Other fields</th>
            </tr>
          </thead>
          <tbody>
            {services.slice(0, MAX_LISTED).map(({ name, port, ...rest }, index) => (
              <tr key={index}>
                <td>
                  <Untrusted text={name} />
                </td>
                <td>
                  <Untrusted text={port} />
                </td>
                <td>{Object.hasOwn(health, name) ? <Untrusted text={health[name]} /> : '–'}</td>
                <td>{Object.keys(rest).length > 0 ? <Untrusted text={rest} /> : '–'}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Rest count={services.length} />
    </section>
  );
}

function Pairs({ title, values }: { title: string; values: object | undefined }) {
  const entries = useMemo(() => Object.entries(values ?? {}), [values]);
  const facts = useMemo(
    () =>
      entries.slice(0, MAX_LISTED).map(([key, value]) => (
        <Fact key={key} term={<Untrusted text={key} />}>
          <Untrusted text={value} />
        </Fact>
      )),
    [entries],
  );
  if (entries.length === 0) return null;
  return (
    <section class="panel">
      <h2>{title}</h2>
      <dl class="facts">{facts}</dl>
      <Rest count={entries.length} />
    </section>
  );
}

/** How many items a list leaves out. */
function Rest({ count }: { count: number }) {
  if (count <= MAX_LISTED) return null;
  return <p class="muted">and {numberText(count - MAX_LISTED)} more, see JSON</p>;
}

function Family({ vm }: { vm: { id: string; parentId?: string } }) {
  const children = [...rows.values()].map((row) => row.vm).filter(({ parentId }) => parentId === vm.id);
  if (vm.parentId === undefined && children.length === 0) return null;
  const rest = children.length - MAX_LISTED;
  return (
    <section class="panel">
      <h2>
        Lineage <a href={hrefOf('tree', { id: vm.id })}>tree</a>
      </h2>
      <dl class="facts">
        {vm.parentId !== undefined && (
          <Fact term="Parent">
            <VmLink id={vm.parentId} name={rows.get(vm.parentId)?.vm.name ?? vm.parentId} />
            {rows.has(vm.parentId) ? '' : <span class="muted"> (not registered)</span>}
          </Fact>
        )}
        {children.length > 0 && (
          <Fact term="Children">
            <ul class="inline-list">
              {children.slice(0, MAX_LISTED).map((child) => (
                <li key={child.id}>
                  <VmLink id={child.id} name={child.name} />
                </li>
              ))}
              {rest > 0 && <li class="muted">and {numberText(rest)} more</li>}
            </ul>
          </Fact>
        )}
      </dl>
    </section>
  );
}

function TokenList({ tokens = [] }: { tokens: readonly TokenInfo[] | undefined }) {
  if (tokens.length === 0) return null;
  return (
    <section class="panel">
      <h2>Tokens</h2>
      <dl class="facts">
        {tokens.map(({ name, scope, createdAt, expiresAt, lastUsedAt, lastUsedFrom }) => (
          <Fact key={name} term={scope}>
            <Untrusted text={name} />, created {timeText(createdAt)}, expires{' '}
            {expiresAt ? timeText(expiresAt) : 'never'}, last used {lastUsedAt ? timeText(lastUsedAt) : 'never'}
            {lastUsedFrom === undefined ? '' : ` from ${lastUsedFrom}`}
          </Fact>
        ))}
      </dl>
    </section>
  );
}

function ConflictClaims({ id }: { id: string }) {
  const found = conflicts.value?.conflicts.filter((conflict) => conflict.id === id) ?? [];
  if (found.length === 0) return null;
  return (
    <section class="panel panel-attention">
      <h2>Identity conflicts</h2>
      {found.slice(0, MAX_CONFLICTS).map((conflict) => (
        <ConflictCard key={`${conflict.firstAt} ${conflict.other.incarnation}`} conflict={conflict} />
      ))}
      {found.length > MAX_CONFLICTS && <p class="muted">and {numberText(found.length - MAX_CONFLICTS)} more</p>}
    </section>
  );
}

function Commands({ id, vm }: { id: string; vm: object }) {
  const url = new URL(`.${PATHS.vm(id)}`, BASE).href;
  const json = useMemo(() => JSON.stringify(vm, null, 2), [vm]);
  const auth = `-H "Authorization: Bearer $VERS_AUTH_TOKEN" `;
  return (
    <>
      <Snippet title="vreg" text={`vreg describe ${shellWord(id)}`} />
      <Snippet title="curl" text={`curl -s ${auth}${shellWord(url)}`} />
      <Snippet title="JSON" text={json} />
    </>
  );
}
