/** The overview: the fleet by role and state, the last hour, and one cell per VM. */
import { computed, signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { type Activity, PATHS } from '../protocol/api.ts';
import type { FleetRow } from './fleet-message.ts';
import { type Counts, counts, isFleetKnown, link, rows, STATES, structure } from './fleet-store.ts';
import { hrefOf } from './hash-route.ts';
import { HeatGrid } from './heat-grid.tsx';
import { LinePlot } from './line-plot.tsx';
import { ifAllowed, request } from './requests.ts';
import { peekServerNow } from './server-clock.ts';
import { numberText } from './times.ts';
import { State } from './widgets.tsx';

/** Undefined before the first answer, and if the session may not read it. */
const activity = signal<Activity | undefined>(undefined);

const byRole = computed(() => {
  structure.value;
  const found = new Map<string, FleetRow[]>();
  for (const row of rows.values()) {
    const ofRole = found.get(row.vm.role);
    if (ofRole) ofRole.push(row);
    else found.set(row.vm.role, [row]);
  }
  return found;
});

export function Overview() {
  useActivity();
  const { byRole: roles, all } = counts.value;
  const sizes = roles.map(([, { total }]) => total);
  return (
    <div class="view view-overview">
      <h1 class="visually-hidden">Overview</h1>
      <section class="panel">
        <h2>Fleet</h2>
        <div class="scroll-x">
          <table class="matrix">
            <thead>
              <tr>
                <th scope="col">Role</th>
                {STATES.map((state) => (
                  <th key={state} scope="col" class="number">
                    <State state={state} />
                  </th>
                ))}
                <th scope="col" class="number">
                  All
                </th>
              </tr>
            </thead>
            <tbody>
              {roles.map(([role, ofRole]) => (
                <MatrixRow key={role} name={role} filter={`role:${role}`} row={ofRole} />
              ))}
            </tbody>
            <tfoot>
              <MatrixRow name="all" filter="" row={all} />
            </tfoot>
          </table>
        </div>
      </section>
      <Plots />
      <section class="panel panel-heat">
        <h2>
          VMs <span class="muted">one cell each</span>
        </h2>
        {roles.length === 0 && (
          <p class="empty">
            {isFleetKnown.value ? (
              <>
                No VM is registered. Register one: <code>vreg register ID --role worker</code>
              </>
            ) : (
              'Loading…'
            )}
          </p>
        )}
        {roles.map(([role, ofRole]) => (
          <HeatGrid key={role} role={role} vms={byRole.value.get(role) ?? []} counts={ofRole} sizes={sizes} />
        ))}
      </section>
    </div>
  );
}

function MatrixRow({ name, filter, row }: { name: string; filter: string; row: Counts }) {
  const cell = (state: keyof Counts) => {
    const count = row[state];
    if (count === 0) return <span class="zero">0</span>;
    const q = [filter, state === 'total' ? '' : `live:${state}`].filter(Boolean).join(' ');
    return (
      <a href={hrefOf('vms', { q })} class={state === 'stale' || state === 'suspect' ? 'attention' : ''}>
        {numberText(count)}
      </a>
    );
  };
  return (
    <tr>
      <th scope="row">{name}</th>
      {STATES.map((state) => (
        <td key={state} class="number">
          {cell(state)}
        </td>
      ))}
      <td class="number">{cell('total')}</td>
    </tr>
  );
}

function Plots() {
  const { points = [], interval = 1 } = activity.value ?? {};
  if (activity.value === undefined) return null;
  const plot = (value: (point: Activity['points'][number]) => number) =>
    points.map((point) => ({ at: Date.parse(point.at), value: value(point) }));
  const rate = (value: number) =>
    value >= 10 || Number.isInteger(value) ? numberText(Math.round(value)) : value.toFixed(1);
  const lives = plot(({ live }) => live);
  // The last point may be ten seconds old, and must not contradict the table beside it.
  if (link.value.connection === 'live') lives.push({ at: peekServerNow(), value: counts.value.all.live });
  return (
    <section class="panel plots" aria-label="Last hour">
      <LinePlot title="Live VMs" points={lives} interval={interval} format={numberText} />
      <LinePlot
        title="Heartbeats per second"
        points={plot(({ heartbeats }) => heartbeats / (interval / 1000))}
        interval={interval}
        format={rate}
      />
      <LinePlot
        title="Changes per minute"
        points={plot(({ changes }) => changes / (interval / 60_000))}
        interval={interval}
        format={rate}
      />
    </section>
  );
}

/** Reads the last hour now and whenever there is a new point. */
function useActivity(): void {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isLeft = false;
    const read = async () => {
      activity.value = await ifAllowed(request<Activity>('GET', PATHS.activity)).catch(() => activity.value);
      if (!isLeft) timer = setTimeout(() => void read(), activity.value?.interval ?? 10_000);
    };
    void read();
    return () => {
      isLeft = true;
      clearTimeout(timer);
    };
  }, []);
}
