import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { ASK_THE_DOCTOR } from '../client/connection.ts';
import { isTlsError } from '../client/tls-hints.ts';
import { isSilence, type TransportError } from '../client/transport.ts';
import type { RegistryClient } from '../client.ts';
import { type Context, defineCommand } from '../command.ts';
import { SETTING_KEYS } from '../config/settings.ts';
import { clientCertificate, trustedCertificates } from '../config/tls-files.ts';
import { formatNames } from '../config/values.ts';
import { type CheckResult, findingsAnswer } from '../fleet/findings.ts';
import { describeClaim } from '../fleet/other-registry.ts';
import { countStates } from '../fleet/table.ts';
import { nextStep } from '../help/suggest.ts';
import { PATHS } from '../protocol/api.ts';
import { formatDuration } from '../protocol/duration.ts';
import { type ErrorCode, VregError } from '../protocol/errors.ts';
import type { Conflicts } from '../protocol/heartbeat.ts';
import { livenessOf } from '../protocol/liveness.ts';
import { maskTokens, printable, registryUrls } from '../protocol/redact.ts';
import type { Whoami } from '../protocol/token.ts';

/** Maximum acceptable difference between two clocks in seconds. NTP keeps them much closer. */
const MAX_SKEW = 5;
/** Heartbeats that must fit into a lease, so that a VM stays live if one is lost. */
const HEARTBEATS_PER_LEASE = 2;
/** Maximum number of clones to list by id. */
const MAX_LISTED = 3;

interface Finding extends CheckResult {
  code?: ErrorCode;
}

export const doctor = defineCommand({
  name: 'doctor',
  summary: 'diagnose the connection to the registry',
  description:
    'Checks the config, the host name of the registry, TLS, the connection, readiness, the token, clock skew, versions, whether the lease is long enough for the heartbeat interval, and how many VMs are live. With several URLs, checks each of them, and that they lead to one registry. Also looks for duplicate VMs and registries. Prints a fix for each warning and failure. The exit code is that of the first failure; warnings do not affect it.',
  examples: [
    { about: 'run all checks', command: 'vreg doctor' },
    { about: 'check another registry', command: 'vreg doctor --url http://10.0.0.5:3000' },
    { about: 'the failed checks as JSON', command: `vreg doctor -o json | jq '.[] | select(.result == "fail")'` },
  ],
  exits: [2, 8],
  lenient: true,
  async run(context) {
    const findings: Finding[] = [await examine(CONFIG, context)];
    const failed = () => findings.some(({ result }) => result === 'fail');
    const urls = failed() ? [] : registryUrls(context.config.get('url')!);
    if (urls.length > 1) findings.push(...(await examineUrls(context, urls)));
    for (const check of urls.length > 1 ? CHECKS : [...CHECKS_OF_URL, ...CHECKS]) {
      findings.push(
        failed()
          ? { check: check.name, result: 'skip', detail: 'an earlier check failed' }
          : await examine(check, context),
      );
    }
    await context.print(findingsAnswer(findings));
    const failure = findings.find(({ result }) => result === 'fail');
    if (failure) throw failureOf(failure);
  },
});

interface Check {
  name: string;
  /**
   * @param client of the configured URL, or of one of several
   * @returns ok, warn or skip. @throws VregError if the check fails
   */
  run(context: Context, client: () => RegistryClient): Promise<Omit<Finding, 'check'>>;
}

const START_REGISTRY = 'start it there: vreg daemon; or set another URL with --url or VERS_INFRA_URL';
/** The next step if nothing refuses the connection: a machine that is off, a firewall, or a frozen daemon. */
const CHECK_DAEMON =
  'check the address and the firewalls on the way; then there: vreg daemon status, and vreg daemon logs serve';

const CONFIG: Check = {
  name: 'config',
  run: async ({ config }) => {
    void config.file;
    for (const key of SETTING_KEYS) config.find(key);
    void config.token();
    void trustedCertificates(config);
    void clientCertificate(config);
    const { value, origin } = config.find('url')!;
    return ok(`registry ${value} (from ${origin})`);
  },
};

/** The checks of a URL. If there are several, each has one line with the result of all three and of {@link READY}. */
const CHECKS_OF_URL: readonly Check[] = [
  {
    name: 'dns',
    run: async (_context, client) => {
      const url = new URL(client().url);
      const host = url.hostname.replace(/^\[|\]$/g, '');
      if (url.protocol === 'unix:') return { result: 'skip', detail: 'a unix socket has no host name' };
      if (isIP(host)) return { result: 'skip', detail: `${host} is an IP address` };
      const { address } = await lookup(host).catch((cause: NodeJS.ErrnoException) => {
        throw new VregError('UNREACHABLE', `cannot resolve ${host} (${cause.code})`, {
          hint: 'check the host name in the URL and /etc/resolv.conf',
        });
      });
      return ok(`${host} resolves to ${address}`);
    },
  },
  {
    name: 'tls',
    run: async (_context, client) => {
      if (!client().url.startsWith('https:')) return { result: 'skip', detail: 'the URL is not https' };
      try {
        await client().health();
      } catch (error) {
        const { cause } = error as VregError;
        if (isTlsError(String((cause as NodeJS.ErrnoException | undefined)?.code))) throw error;
        return { result: 'skip', detail: 'there is no TLS connection to check' };
      }
      return ok('the certificate is trusted');
    },
  },
  {
    name: 'reach',
    run: async (_context, client) => {
      try {
        const { uptime } = await client().health();
        return ok(`the registry responds, up ${formatDuration(uptime * 1000)}`);
      } catch (error) {
        if ((error as VregError).code !== 'BUSY' || (await isReady(client()))) throw error;
        return ok('the registry responds, but is not ready');
      }
    },
  },
];

/** False if the registry itself says so: it answers its probes, also while it refuses all other requests. */
async function isReady(client: RegistryClient): Promise<boolean> {
  try {
    await client.readiness();
    return true;
  } catch (error) {
    return (error as VregError).code !== 'BUSY';
  }
}

/** The next step for each warning of `/readyz`. */
const READY_FIXES: Readonly<Record<string, string>> = {
  writes: "free up space on the registry's disk, or check it (dmesg, mount); with etcd, run etcdctl endpoint health",
  history: 'if it was restored on purpose, restart the daemon to end this warning; otherwise stop the copy',
};

/** Before the token, because a registry that is loading its store knows no tokens. */
const READY: Check = {
  name: 'ready',
  run: async (_context, client) => {
    const checks = await client().readinessChecks();
    if (!checks) return readyInOneWord(client());
    const failed = checks.find(({ result }) => result === 'fail');
    if (failed)
      throw new VregError('BUSY', `the registry is not ready: ${failed.name} ${failed.reason}`, {
        hint: "see the daemon's log",
      });
    // The check of the fleet says how long the registry is warming.
    const warning = checks.find(({ name, result }) => result === 'warn' && Object.hasOwn(READY_FIXES, name));
    if (!warning) return ok('the registry is ready');
    return { result: 'warn', detail: warning.reason, fix: READY_FIXES[warning.name]! };
  },
};

/** The check of a registry that refuses to list its checks, because it is loading or does not know the token. */
async function readyInOneWord(client: RegistryClient): Promise<Omit<Finding, 'check'>> {
  const word = await client.readiness().catch((error: VregError) => {
    if (error.code !== 'BUSY') throw error;
    const hint = "retry in a few seconds; if that does not help, see the daemon's log";
    throw new VregError('BUSY', error.message, { hint });
  });
  if (word === undefined) return { result: 'skip', detail: 'the registry has no /readyz' };
  return ok(word === 'ok' ? 'the registry is ready' : `the registry is ready, but ${word}`);
}

const CHECKS: readonly Check[] = [
  READY,
  {
    name: 'token',
    run: async (context) => {
      const token = context.config.clientToken();
      const self = await whoami(context);
      if (!self) await context.client().list({ limit: 1 });
      const detail = token ? `accepted (from ${token.origin})` : 'not required';
      if (!self || self.scope === 'admin') return ok(detail);
      const scope = `${detail}: "${self.name}" with the scope ${self.scope}`;
      if (self.scope !== 'enrol') return ok(scope);
      return {
        result: 'warn',
        detail: scope,
        fix: 'this token can only register VMs: pass --token-file with the token that the VM received',
      };
    },
  },
  {
    name: 'clock',
    run: async (context) => {
      const skew = (context.now() - context.client().server.now) / 1000;
      if (Math.abs(skew) <= MAX_SKEW) return ok('in sync with the registry');
      const detail = `${formatDuration(Math.abs(skew) * 1000)} ${skew > 0 ? 'ahead of' : 'behind'} the registry`;
      return { result: 'warn', detail, fix: 'enable NTP on both machines: timedatectl set-ntp true' };
    },
  },
  {
    name: 'version',
    run: async (context) => {
      const { version } = context.client().server;
      if (version === undefined && (await hasVregRoutes(context)))
        return {
          result: 'warn',
          detail: 'the registry is a vreg daemon, but a proxy removes its X-Vreg-Version header',
          fix: 'let the proxy pass all X-Vreg-* headers of requests and responses',
        };
      if (version === undefined)
        return {
          result: 'warn',
          detail: 'the registry is not a vreg daemon',
          fix: 'run vreg daemon there to get events, history and backups',
        };
      if (version === context.version) return ok(`both have version ${version}`);
      return {
        result: 'warn',
        detail: `vreg has version ${context.version}, the registry has ${version}`,
        fix: 'install the same version on both machines',
      };
    },
  },
  {
    name: 'lease',
    run: async (context) => {
      const { lease } = context.client().server;
      const interval = context.config.duration('interval');
      const detail = `the lease is ${formatDuration(lease)}, the heartbeat interval ${formatDuration(interval)}`;
      if (interval * HEARTBEATS_PER_LEASE <= lease) return ok(detail);
      return {
        result: 'warn',
        detail,
        fix: `vreg daemon agent adapts automatically; in other clients, send a heartbeat every ${formatDuration(lease / 3)}`,
      };
    },
  },
  {
    name: 'fleet',
    run: async (context) => {
      const client = context.client();
      const vms = await client.list().catch((error: VregError) => {
        if (error.code === 'FORBIDDEN') return error;
        throw error;
      });
      if (vms instanceof VregError) return { result: 'skip', detail: vms.message };
      const { warming } = client.server;
      const detail = vms.length === 0 ? 'no VMs are registered' : countStates(vms);
      if (vms.some((vm) => livenessOf(vm) === 'suspect'))
        return {
          result: 'warn',
          detail: `${detail}; the suspect VMs fell silent together with a large share of the fleet`,
          fix: 'check the network between the VMs and the registry; list the suspect VMs: vreg status',
        };
      if (warming === undefined) return ok(detail);
      return {
        result: 'warn',
        detail: `${detail}; the registry has just started or was paused, so some of them may be dead`,
        fix: `wait ${formatDuration(warming * 1000)}, or use --strict to get no answer rather than a possibly stale one`,
      };
    },
  },
  {
    name: 'clones',
    run: async (context) => {
      const answer = await conflictsOf(context);
      if (answer instanceof VregError) {
        const isRefused = answer.code === 'FORBIDDEN';
        return { result: 'skip', detail: isRefused ? answer.message : 'the registry does not detect clones' };
      }
      const { conflicts, otherRegistry } = answer;
      const open = conflicts.filter(({ state }) => state === 'open');
      const ids = [...new Set(open.map(({ id }) => id))];
      if (otherRegistry) {
        const clones = ids.length > 0 ? `; duplicates of ${formatNames(ids, MAX_LISTED)}` : '';
        return {
          result: 'warn',
          detail: `${describeClaim(otherRegistry)}${clones}`,
          fix: 'stop the registry that is not wanted, or correct DNS or the load balancer; then: vreg conflicts --clear',
        };
      }
      if (ids.length === 0) return ok('no duplicate VMs');
      return {
        result: 'warn',
        detail: `duplicates of ${formatNames(ids, MAX_LISTED)}`,
        fix: 'list the conflicts: vreg conflicts; clear the resolved ones: vreg conflicts ID --clear',
      };
    },
  },
];

/** @returns an error if the registry has no conflicts: the original registry, an older vreg daemon, or a token without permission */
async function conflictsOf(context: Context): Promise<Conflicts | VregError> {
  try {
    return await context.client().conflicts();
  } catch (error) {
    if (error instanceof VregError && ['UNSUPPORTED', 'NOT_FOUND', 'FORBIDDEN'].includes(error.code)) return error;
    throw error;
  }
}

/** @returns undefined if the registry lacks this route */
async function whoami(context: Context): Promise<Whoami | undefined> {
  return context
    .client()
    .whoami()
    .catch((error: VregError) => {
      if (error.code === 'UNSUPPORTED' || error.code === 'NOT_FOUND') return undefined;
      throw error;
    });
}

/** True if the registry has a route that the original registry lacks. */
async function hasVregRoutes(context: Context): Promise<boolean> {
  const { status, text } = await context.client().raw('GET', PATHS.whoami);
  return status === 200 && text.includes('"scope"');
}

/**
 * Checks each of several URLs, and that they lead to one registry. A URL that fails is a failure only if no other one works,
 * because the client uses the next one.
 */
async function examineUrls(context: Context, urls: readonly string[]): Promise<Finding[]> {
  const findings: Finding[] = [];
  const ids = new Map<string, string>();
  for (const [index, url] of urls.entries()) {
    const client = context.freshClient({ url });
    let found: Finding | undefined;
    for (const check of [...CHECKS_OF_URL, READY]) {
      const next = await examine(check, context, () => client);
      // The result of `reach` says more than that the registry is ready.
      if (check !== READY || next.result === 'fail') found = next;
      if (next.result === 'fail') break;
    }
    const { registryId } = client.server;
    if (registryId !== undefined) ids.set(registryId, ids.get(registryId) ?? url);
    client.close();
    const { check, detail, ...rest } = found!;
    const place = rest.result === 'fail' ? `${check}: ${detail}` : `${url}: ${detail}`;
    findings.push({ ...rest, check: `url ${index + 1}`, detail: place });
  }
  const isReachable = findings.some(({ result }) => result === 'ok');
  const named = [...ids].map(([id, url]) => `${url} (${printable(id)})`);
  return [
    ...findings.map(
      (finding): Finding => (finding.result === 'fail' && isReachable ? { ...finding, result: 'warn' } : finding),
    ),
    ...(named.length > 1
      ? [
          {
            check: 'urls',
            result: 'fail',
            detail: `the URLs lead to different registries: ${named.join(', ')}`,
            fix: 'configure URLs of one registry only',
            code: 'USAGE',
          } as const,
        ]
      : []),
  ];
}

async function examine({ name, run }: Check, context: Context, client = () => context.client()): Promise<Finding> {
  try {
    return { check: name, ...(await run(context, client)) };
  } catch (error) {
    if (!(error instanceof VregError)) throw error;
    return { check: name, result: 'fail', detail: maskTokens(error.message), fix: fixOf(error), code: error.code };
  }
}

function fixOf(error: VregError): string {
  // The usual hint says to run vreg doctor, which is what the user just did.
  if (error.hint !== ASK_THE_DOCTOR) return nextStep(error)!;
  return isSilence(error.cause as TransportError) ? CHECK_DAEMON : START_REGISTRY;
}

function ok(detail: string): Omit<Finding, 'check'> {
  return { result: 'ok', detail };
}

function failureOf({ check, code, fix }: Finding): VregError {
  return new VregError(code!, `the check "${check}" failed`, fix === undefined ? {} : { hint: fix });
}
