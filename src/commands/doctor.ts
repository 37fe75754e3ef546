import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { ASK_THE_DOCTOR } from '../client/connection.ts';
import { isTlsError } from '../client/tls-hints.ts';
import { type Context, defineCommand } from '../command.ts';
import { SETTING_KEYS } from '../config/settings.ts';
import { clientCertificate, trustedCertificates } from '../config/tls-files.ts';
import { formatDuration, formatNames } from '../config/values.ts';
import { describeClaim } from '../fleet/other-registry.ts';
import { countStates } from '../fleet/table.ts';
import { nextStep } from '../help/suggest.ts';
import { PATHS } from '../protocol/api.ts';
import { type ErrorCode, VregError } from '../protocol/errors.ts';
import type { Conflicts } from '../protocol/heartbeat.ts';
import { livenessOf } from '../protocol/liveness.ts';
import { maskTokens } from '../protocol/redact.ts';
import type { Whoami } from '../protocol/token.ts';
import type { Cell } from '../render.ts';

/** Maximum acceptable difference between two clocks in seconds. NTP keeps them much closer. */
const MAX_SKEW = 5;
/** Heartbeats that must fit into a lease, so that a VM stays live if one is lost. */
const HEARTBEATS_PER_LEASE = 2;
/** Maximum number of clones to list by id. */
const MAX_LISTED = 3;

interface Finding {
  check: string;
  result: 'ok' | 'warn' | 'fail' | 'skip';
  detail: string;
  /** The next step for a warning or failure. */
  fix?: string;
  code?: ErrorCode;
}

export const doctor = defineCommand({
  name: 'doctor',
  summary: 'diagnose the connection to the registry',
  description:
    'Checks the config, the host name of the registry, TLS, the connection, the token, clock skew, versions, whether the lease is long enough for the heartbeat interval, and how many VMs are live. Also looks for duplicate VMs and registries. Prints a fix for each warning and failure. The exit code is that of the first failure; warnings do not affect it.',
  examples: [
    { about: 'run all checks', command: 'vreg doctor' },
    { about: 'check another registry', command: 'vreg doctor --url http://10.0.0.5:3000' },
    { about: 'the failed checks as JSON', command: `vreg doctor -o json | jq '.[] | select(.result == "fail")'` },
  ],
  exits: [2, 8],
  lenient: true,
  async run(context) {
    const findings: Finding[] = [];
    for (const check of CHECKS) {
      const failed = findings.some(({ result }) => result === 'fail');
      findings.push(
        failed
          ? { check: check.name, result: 'skip', detail: 'an earlier check failed' }
          : await examine(check, context),
      );
    }
    await context.print({
      kind: 'rows',
      rows: findings,
      columns: [
        { title: 'CHECK', cell: ({ check }) => check },
        { title: 'RESULT', cell: resultCell },
        { title: 'DETAIL', cell: ({ detail }) => detail },
        { title: 'FIX', cell: ({ fix }) => fix ?? '-' },
      ],
      name: ({ check }) => check,
      data: ({ code: _code, ...finding }) => finding,
      list: (finding) => ({
        labels: [resultCell(finding), finding.check],
        text: finding.detail,
        detail: finding.fix === undefined ? undefined : `fix: ${finding.fix}`,
      }),
    });
    const failure = findings.find(({ result }) => result === 'fail');
    if (failure) throw failureOf(failure);
  },
});

interface Check {
  name: string;
  /** @returns ok, warn or skip. @throws VregError if the check fails */
  run(context: Context): Promise<Omit<Finding, 'check'>>;
}

const START_REGISTRY = 'start it there: vreg daemon; or set another URL with --url or VERS_INFRA_URL';

const CHECKS: readonly Check[] = [
  {
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
  },
  {
    name: 'dns',
    run: async ({ config }) => {
      const url = new URL(config.get('url')!);
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
    run: async (context) => {
      if (!context.client().url.startsWith('https:')) return { result: 'skip', detail: 'the URL is not https' };
      try {
        await context.client().health();
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
    run: async (context) => {
      const { uptime } = await context.client().health();
      return ok(`the registry responds, up ${formatDuration(uptime * 1000)}`);
    },
  },
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

async function examine({ name, run }: Check, context: Context): Promise<Finding> {
  try {
    return { check: name, ...(await run(context)) };
  } catch (error) {
    if (!(error instanceof VregError)) throw error;
    // The usual hint says to run vreg doctor, which is what the user just did.
    const fix = error.hint === ASK_THE_DOCTOR ? START_REGISTRY : nextStep(error)!;
    return { check: name, result: 'fail', detail: maskTokens(error.message), fix, code: error.code };
  }
}

function ok(detail: string): Omit<Finding, 'check'> {
  return { result: 'ok', detail };
}

function failureOf({ check, code, fix }: Finding): VregError {
  return new VregError(code!, `the check "${check}" failed`, fix === undefined ? {} : { hint: fix });
}

function resultCell({ result }: Finding): Cell {
  return { text: result, color: { ok: 'green', warn: 'yellow', fail: 'red', skip: 'gray' }[result] as 'green' };
}
