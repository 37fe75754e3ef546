/** An authenticator over a store in memory, without HTTP. */
import { Authenticator, type Credentials } from '../../daemon/access/authenticator.ts';
import { Sessions } from '../../daemon/access/sessions.ts';
import { Tokens } from '../../daemon/access/tokens.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import type { NewToken, TokenRequest } from '../../src/protocol/token.ts';
import { FakeClock } from './clock.ts';
import { MemoryStore } from './memory-store.ts';

export interface AuthenticatorSetup {
  store: MemoryStore;
  clock: FakeClock;
  registry: Registry;
  tokens: Tokens;
  authenticator: Authenticator;
  create(request: TokenRequest): Promise<NewToken>;
}

/** @param store the contents of an earlier run */
export function anAuthenticator({
  root,
  store = new MemoryStore(),
}: {
  root?: string;
  store?: MemoryStore;
} = {}): AuthenticatorSetup {
  const clock = new FakeClock();
  const contents = store.contents();
  const registry = new Registry(
    {
      store,
      clock,
      staleAfter: 300_000,
      onDeregister: (id) => tokens.removeWithVm(id),
      onMove: (id, created) => tokens.moveWithVm(id, created),
    },
    contents,
  );
  const now = () => clock.now();
  const tokens: Tokens = new Tokens(contents, {
    queue: registry.unsaved.records,
    revocations: registry.unsaved.revocations,
    commit: (...change) => registry.commitTokens(...change),
    registrationOf: (id) => registry.registrationOf(id),
    now,
  });
  const sessions = new Sessions(contents, { queue: registry.unsaved.records, now });
  const authenticator = new Authenticator({ root, tokens, sessions, ticks: now });
  return { store, clock, registry, tokens, authenticator, create: (request) => tokens.create(request, 'test') };
}

/** The credentials of a TCP client with or without a token. */
export function credentialsWith(token?: string, more: Partial<Credentials> = {}): Credentials {
  return {
    authorization: token === undefined ? undefined : `Bearer ${token}`,
    address: '192.0.2.1',
    isLocal: false,
    ...more,
  };
}
