import { join } from 'node:path';
import type { Reloader } from '../../../daemon/process/lifecycle.ts';
import { type Context, defineCommand, type Flag } from '../../command.ts';
import type { SettingKey } from '../../config/settings.ts';
import { serverCertificates } from '../../config/tls-files.ts';
import { parseBytes } from '../../config/values.ts';
import { META_FLAG, parseMetaFlags, parseServiceFlag, SERVICE_FLAG } from '../../fleet/flags.ts';
import { defaultAddress, type ThisVmFlags, thisVmId } from '../../fleet/local-vm.ts';
import { parseRegistration, type Registration, type Service } from '../../protocol/vm.ts';
import {
  createLog,
  DETACH,
  dataDirOf,
  detach,
  LOG_SETTINGS,
  reportingFailure,
  startLifecycle,
  VM_SETTINGS,
} from './process.ts';

export const SERVE_SETTINGS: readonly SettingKey[] = [
  'host',
  'port',
  'socket',
  'stale-after',
  'mass-loss',
  'allow-host',
  'tls-cert',
  'tls-key',
  'tls-client-ca',
  'trust-proxy',
  'cors-origin',
  'max-body',
  'max-vms',
  'max-connections',
  ...LOG_SETTINGS,
  ...VM_SETTINGS,
];
export const SERVE_FLAGS: readonly Flag[] = [
  { flags: '--self-register', about: "make the daemon's own VM an infra entry, and keep it alive" },
  SERVICE_FLAG,
  META_FLAG,
  DETACH,
];

export interface ServeFlags extends ThisVmFlags {
  selfRegister?: boolean;
  detach?: boolean;
}

export const serve = defineCommand<ServeFlags>({
  name: 'serve',
  summary: 'run the registry',
  description:
    'Runs the registry over a durable store, on 127.0.0.1:3000 unless told otherwise. VERS_AUTH_TOKEN or --token-file turns bearer authentication on; without it the daemon listens on loopback and a unix socket only. --tls-cert and --tls-key make the TCP address speak https, and --tls-client-ca lets in only clients with a certificate. SIGTERM drains; SIGHUP reads the token and the certificates anew.',
  settings: SERVE_SETTINGS,
  flags: SERVE_FLAGS,
  examples: [
    { about: 'on this machine', command: 'vreg daemon serve' },
    {
      about: 'for a fleet, as its infra VM',
      command: 'vreg daemon serve --host 0.0.0.0 --token-file /etc/vreg/token --self-register',
    },
    {
      about: 'with https, for clients with a certificate',
      command: 'vreg daemon serve --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key --tls-client-ca ca.crt',
    },
    {
      about: 'in the background, on a socket alone',
      command: 'vreg daemon serve --socket /run/user/1000/vreg.sock --detach',
    },
  ],
  exits: [4],
  run: runServe,
});

export function runServe(context: Context, _args: string[], flags: ServeFlags): Promise<void> {
  return reportingFailure(serveUntilStopped(context, flags));
}

async function serveUntilStopped(context: Context, flags: ServeFlags): Promise<void> {
  const { config } = context;
  const dataDir = dataDirOf(context);
  if (flags.detach) return detach(context, 'serve', join(dataDir, 'daemon.log'));
  const socket = config.get('socket');
  // A socket alone is the whole listener; asking for a host or a port as well gives both.
  const tcp = socket === undefined || config.isSet('host') || config.isSet('port');
  const tls = serverCertificates(config);
  const main = await import('../../../daemon/main.ts');
  const log = await createLog(context);
  process.umask(0o077);
  const serving = await main.serve(
    {
      dataDir,
      staleAfter: config.duration('stale-after'),
      massLoss: shareOf(config.get('mass-loss')!),
      allowHosts: config.get('allow-host')?.split(',') ?? [],
      limits: {
        maxBody: parseBytes(config.get('max-body')!, 'max-body'),
        maxVms: Number(config.get('max-vms')),
        maxConnections: Number(config.get('max-connections')),
      },
      token: config.token()?.value,
      tls,
      trustProxy: config.get('trust-proxy'),
      corsOrigins: config.get('cors-origin')?.split(',') ?? [],
      version: context.version,
      ...(tcp ? { tcp: { host: config.get('host')!, port: Number(config.get('port')) } } : {}),
      socket,
      self: flags.selfRegister ? (port) => selfOf(context, flags, port) : undefined,
    },
    log,
  );
  const line = `vreg ${context.version} listening on ${serving.urls.join(' and ')}, data in ${serving.dataDir}`;
  if (log.isLevelEnabled('info')) log.info({ urls: serving.urls, dataDir: serving.dataDir }, line);
  else context.note(line.replace(/^vreg /, ''));
  const lifecycle = await startLifecycle(context, log, serving.status);
  const reloaders: Reloader[] = [
    {
      what: 'the token',
      reload() {
        config.reload();
        serving.reload({ token: config.token()?.value });
      },
    },
  ];
  if (tls) {
    reloaders.push({
      what: 'the certificate',
      reload() {
        config.reload();
        serving.reloadCertificates(serverCertificates(config));
      },
    });
  }
  lifecycle.reloadOnHangup(reloaders);
  await lifecycle.ready();
  await lifecycle.untilStopped();
  log.info('stopping: finishing accepted requests');
  await Promise.all([lifecycle.stopping(), serving.close()]);
  log.info('stopped');
}

/** 1, which nothing exceeds, of `off`. */
function shareOf(massLoss: string): number {
  return massLoss === 'off' ? 1 : Number(massLoss.slice(0, -1)) / 100;
}

/** The infra VM as the original registry's set-up has it: board, feed and registry on the daemon's own port. */
function selfOf({ config }: Context, { service, meta }: ThisVmFlags, port: number | undefined): Registration {
  const id = thisVmId(config);
  const own: Service[] =
    port === undefined ? [] : ['board', 'feed', 'registry'].map((name) => ({ name, port, healthPath: '/health' }));
  return parseRegistration({
    id,
    name: config.get('name') ?? 'infra',
    role: config.isSet('role') ? config.get('role') : 'infra',
    address: config.get('address') ?? defaultAddress(id),
    registeredBy: config.get('registered-by') ?? 'self',
    services: service ? service.map(parseServiceFlag) : own,
    ...(meta ? { metadata: parseMetaFlags(meta) } : {}),
    status: 'running',
  });
}
