import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { ASK_THE_DOCTOR } from '../client/connection.ts';
import { isTlsTrouble } from '../client/tls-hints.ts';
import { type Context, defineCommand } from '../command.ts';
import { formatDuration } from '../config/duration.ts';
import { SETTING_KEYS } from '../config/settings.ts';
import { clientCertificate, trustedCertificates } from '../config/tls-files.ts';
import { nextStep } from '../help/suggest.ts';
import { type ErrorCode, VregError } from '../protocol/errors.ts';
import { maskTokens } from '../protocol/redact.ts';
import type { Whoami } from '../protocol/token.ts';
import type { Cell } from '../render.ts';

/** Seconds by which two clocks may differ without harm to anybody: NTP holds far less. */
const MAX_SKEW = 5;
/** Beats that must fit into a lease, so that one may be lost. */
const BEATS_PER_LEASE = 2;
/** VMs that a line names. */
const SHOWN_CLONES = 3;

interface Finding {
  check: string;
  result: 'ok' | 'warn' | 'fail' | 'skip';
  detail: string;
  /** What to do about it. */
  fix?: string;
  code?: ErrorCode;
}

export const doctor = defineCommand({
  name: 'doctor',
  summary: 'check the way to the registry, and say how to mend it',
  description:
    "Checks the config, the registry's name and address, TLS, the token, the clocks, the versions, the lease against the agent's interval, and whether a VM is there twice. Prints a fix for each failure; the exit code is that of the first. What is only doubtful is a warning, and no failure.",
  examples: [
    { about: 'what is wrong?', command: 'vreg doctor' },
    { about: 'with another registry', command: 'vreg doctor --url http://10.0.0.5:3000' },
    { about: 'what failed, for a program', command: `vreg doctor -o json | jq '.[] | select(.result == "fail")'` },
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
    });
    const failure = findings.find(({ result }) => result === 'fail');
    if (failure) throw failureOf(failure);
  },
});

interface Check {
  name: string;
  /** @returns what is well or doubtful; throws what is wrong */
  look(context: Context): Promise<Omit<Finding, 'check'>>;
}

const START_IT = 'start it there: vreg daemon; or name another with --url or VERS_INFRA_URL';

const CHECKS: readonly Check[] = [
  {
    name: 'config',
    look: async ({ config }) => {
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
    look: async ({ config }) => {
      const url = new URL(config.get('url')!);
      const host = url.hostname.replace(/^\[|\]$/g, '');
      if (url.protocol === 'unix:') return { result: 'skip', detail: 'a unix socket needs none' };
      if (isIP(host)) return { result: 'skip', detail: `${host} is an address` };
      const { address } = await lookup(host).catch((cause: NodeJS.ErrnoException) => {
        throw new VregError('UNREACHABLE', `${host} has no address (${cause.code})`, {
          hint: 'check the name in the URL, and /etc/resolv.conf',
        });
      });
      return ok(`${host} is ${address}`);
    },
  },
  {
    name: 'tls',
    look: async (context) => {
      if (!context.client().url.startsWith('https:')) return { result: 'skip', detail: 'the URL is not https' };
      try {
        await context.client().health();
      } catch (error) {
        const { cause } = error as VregError;
        if (isTlsTrouble(String((cause as NodeJS.ErrnoException | undefined)?.code))) throw error;
        return { result: 'skip', detail: 'nothing to look at' };
      }
      return ok('the certificate is trusted');
    },
  },
  {
    name: 'reach',
    look: async (context) => {
      const { uptime } = await context.client().health();
      return ok(`it answers, up ${formatDuration(uptime * 1000)}`);
    },
  },
  {
    name: 'token',
    look: async (context) => {
      const token = context.config.clientToken();
      const self = await whoami(context);
      if (!self) await context.client().list({ limit: 1 });
      const detail = token ? `it is taken (from ${token.origin})` : 'none is needed';
      if (!self || self.scope === 'admin') return ok(detail);
      const scope = `${detail}: "${self.name}", of the scope ${self.scope}`;
      if (self.scope !== 'enrol') return ok(scope);
      return {
        result: 'warn',
        detail: scope,
        fix: 'it registers a VM and nothing else: name the token that the VM got then with --token-file',
      };
    },
  },
  {
    name: 'clock',
    look: async (context) => {
      const skew = (context.now() - context.client().server.now) / 1000;
      if (Math.abs(skew) <= MAX_SKEW) return ok('it agrees with that of the registry');
      const detail = `it is ${formatDuration(Math.abs(skew) * 1000)} ${skew > 0 ? 'ahead of' : 'behind'} that of the registry`;
      return { result: 'warn', detail, fix: 'run NTP on both: timedatectl set-ntp true' };
    },
  },
  {
    name: 'version',
    look: async (context) => {
      const { version } = context.client().server;
      if (version === undefined)
        return {
          result: 'warn',
          detail: 'the registry is not a vreg daemon',
          fix: 'run vreg daemon there for events, history and backups; all else works the plain way',
        };
      if (version === context.version) return ok(`both are ${version}`);
      return {
        result: 'warn',
        detail: `this is ${context.version}, the registry ${version}`,
        fix: 'bring both to one version',
      };
    },
  },
  {
    name: 'lease',
    look: async (context) => {
      const { lease } = context.client().server;
      const interval = context.config.duration('interval');
      const detail = `the lease is ${formatDuration(lease)}, the interval of beats ${formatDuration(interval)}`;
      if (interval * BEATS_PER_LEASE <= lease) return ok(detail);
      return {
        result: 'warn',
        detail,
        fix: `vreg daemon agent beats faster by itself; for other clients: at most every ${formatDuration(lease / 3)}`,
      };
    },
  },
  {
    name: 'clones',
    look: async (context) => {
      const conflicts = await context
        .client()
        .conflicts()
        .catch((error: VregError) => {
          // The original registry, a vreg of before, and a token that may not ask.
          if (['UNSUPPORTED', 'NOT_FOUND', 'FORBIDDEN'].includes(error.code)) return error;
          throw error;
        });
      if (conflicts instanceof VregError) {
        const isRefused = conflicts.code === 'FORBIDDEN';
        return { result: 'skip', detail: isRefused ? conflicts.message : 'the registry does not look for any' };
      }
      const open = conflicts.filter(({ state }) => state === 'open');
      if (open.length === 0) return ok('no VM is there twice');
      const ids = [...new Set(open.map(({ id }) => id))];
      const more = ids.length > SHOWN_CLONES ? ` and ${ids.length - SHOWN_CLONES} more` : '';
      return {
        result: 'warn',
        detail: `two incarnations were heard of ${ids.slice(0, SHOWN_CLONES).join(', ')}${more}`,
        fix: 'see both, and clear what is dealt with: vreg conflicts',
      };
    },
  },
];

/** @returns undefined where the registry cannot say */
async function whoami(context: Context): Promise<Whoami | undefined> {
  return context
    .client()
    .whoami()
    .catch((error: VregError) => {
      if (error.code === 'UNSUPPORTED' || error.code === 'NOT_FOUND') return undefined;
      throw error;
    });
}

async function examine({ name, look }: Check, context: Context): Promise<Finding> {
  try {
    return { check: name, ...(await look(context)) };
  } catch (error) {
    if (!(error instanceof VregError)) throw error;
    // Nobody needs to be sent here from here.
    const fix = error.hint === ASK_THE_DOCTOR ? START_IT : nextStep(error)!;
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
