/** Both incarnations of an identity conflict, side by side. */
import type { Claim, Conflict } from '../protocol/heartbeat.ts';
import { numberText, timeText } from './times.ts';
import { Fact, Untrusted, VmLink } from './widgets.tsx';

export function ConflictCard({ conflict }: { conflict: Conflict }) {
  const { state, rebornAs, count, firstAt, lastAt, holder, other } = conflict;
  return (
    <div class="conflict">
      <p>
        <strong class={state === 'open' ? 'attention' : ''}>{state}</strong>
        {rebornAs !== undefined && (
          <>
            {' as '}
            <VmLink id={rebornAs} />
          </>
        )}
        , {numberText(count)} refused {count === 1 ? 'claim' : 'claims'} from {timeText(firstAt)} to {timeText(lastAt)}
      </p>
      <div class="claims">
        <ClaimFacts title="Holder, accepted" claim={holder} />
        <ClaimFacts title="Other, refused" claim={other} />
      </div>
    </div>
  );
}

function ClaimFacts({ title, claim }: { title: string; claim: Claim }) {
  const { incarnation = '–', address = '–', from = '–', at } = claim;
  return (
    <div>
      <h3>{title}</h3>
      <dl class="facts">
        <Fact term="Incarnation">
          <Untrusted text={incarnation} />
        </Fact>
        <Fact term="Address">
          <Untrusted text={address} />
        </Fact>
        <Fact term="From">
          <Untrusted text={from} />
        </Fact>
        <Fact term="Heartbeat">{timeText(at)}</Fact>
      </dl>
    </div>
  );
}
