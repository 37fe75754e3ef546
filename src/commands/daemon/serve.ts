import { join } from 'node:path';
import type { EtcdSettings } from '../../../daemon/open-store.ts';
import type { Reloader } from '../../../daemon/process/lifecycle.ts';
import { type Context, defineCommand, type Flag } from '../../command.ts';
import type { SettingKey } from '../../config/settings.ts';
import { serverCertificates } from '../../config/tls-files.ts';
import { parseBytes } from '../../config/values.ts';
import { META_FLAG, parseMetaFlags, parseServiceFlag, SERVICE_FLAG } from '../../fleet/flags.ts';
import {
  defaultAddress,
  findParent,
  findVmId,
  parseOwnRegistration,
  type ThisVmFlags,
  thisVmId,
  withMetadata,
} from '../../fleet/local-vm.ts';
import type { Registration, Service } from '../../protocol/vm.ts';
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
  'store',
  'etcd-user',
  'etcd-password-file',
  'etcd-ca',
  'etcd-cert',
  'etcd-key',
  'heartbeat-flush',
  'allow-host',
  'native-dir',
  'tls-cert',
  'tls-key',
  'tls-client-ca',
  'trust-proxy',
  'cors-origin',
  'public-url',
  'max-body',
  'max-vms',
  'max-connections',
  ...LOG_SETTINGS,
  ...VM_SETTINGS,
];
export const SERVE_FLAGS: readonly Flag[] = [
  { flags: '--self-register', about: "register the daemon's own VM as infra and keep it alive" },
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
    'Runs the registry with a durable store, by default on 127.0.0.1:3000. VERS_AUTH_TOKEN or --token-file enables bearer authentication; without a token, the daemon listens only on loopback and a unix socket. With --tls-cert and --tls-key, the TCP listener serves https; --tls-client-ca also requires client certificates. On SIGTERM, the daemon finishes accepted requests and exits; on SIGHUP, it reloads the token and the certificates.',
  settings: SERVE_SETTINGS,
  flags: SERVE_FLAGS,
  examples: [
    { about: 'serve this machine', command: 'vreg daemon serve' },
    {
      about: 'serve a fleet and register this VM as infra',
      command: 'vreg daemon serve --host 0.0.0.0 --token-file /etc/vreg/token --self-register',
    },
    {
      about: 'serve https and require client certificates',
      command: 'vreg daemon serve --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key --tls-client-ca ca.crt',
    },
    {
      about: 'serve as one of several replicas on an etcd cluster',
      command: 'vreg daemon serve --store etcd://a:2379,b:2379,c:2379/vreg/v1/ --token-file /etc/vreg/token',
    },
    {
      about: 'run in the background, on a unix socket only',
      command: 'vreg daemon serve --socket /run/user/1000/vreg.sock --detach',
    },
  ],
  reloadsOnHangup: true,
  exits: [4],
  run: runServe,
});

export function runServe(context: Context, _args: string[], flags: ServeFlags): Promise<void> {
  return reportingFailure(context, serveUntilStopped(context, flags));
}

async function serveUntilStopped(context: Context, flags: ServeFlags): Promise<void> {
  const { config } = context;
  const dataDir = dataDirOf(context);
  const logFile = join(dataDir, 'daemon.log');
  if (flags.detach) return detach(context, 'serve', logFile);
  const socket = config.get('socket');
  // --socket replaces the TCP listener, unless --host or --port is given.
  // PORT may be meant for another program.
  const isPortGiven = config.isSet('port') && config.find('port')?.origin !== 'PORT';
  const tcp = socket === undefined || config.isSet('host') || isPortGiven;
  // The last values that were valid. A reload that fails changes neither the running registry nor its next start.
  let certificates = serverCertificates(config);
  let token = config.token()?.value;
  const isTls = certificates !== undefined;
  const main = await import('../../../daemon/main.ts');
  const processLog = await createLog(context, logFile);
  const { log } = processLog;
  if (flags.selfRegister) {
    const { value: id, origin: idOrigin } = findVmId(config);
    log.info({ id, idOrigin }, `the id of this VM is "${id}" (from ${idOrigin})`);
  }
  process.umask(0o077);
  const { unpackAddon } = await import('../../../daemon/store/addon.ts');
  await unpackAddon(config.nativeDir);
  let status = () => 'loading the store';
  const lifecycle = await startLifecycle(context, processLog, () => status());
  const { signal } = context;
  let port = Number(config.get('port'));
  const start = (waitsForStore: boolean) =>
    main.serve(
      {
        dataDir,
        etcd: etcdSettings(context),
        staleAfter: config.duration('stale-after'),
        massLoss: parseMassLoss(config.get('mass-loss')!),
        allowHosts: config.get('allow-host')?.split(',') ?? [],
        limits: {
          maxBody: parseBytes(config.get('max-body')!, 'max-body'),
          maxVms: Number(config.get('max-vms')),
          isMaxVmsSet: config.isSet('max-vms'),
          maxConnections: Number(config.get('max-connections')),
        },
        token,
        tls: certificates,
        trustProxy: config.get('trust-proxy'),
        corsOrigins: config.get('cors-origin')?.split(',') ?? [],
        publicUrl: config.get('public-url'),
        version: context.version,
        ...(tcp ? { tcp: { host: config.get('host')!, port } } : {}),
        socket,
        self: flags.selfRegister ? (port) => selfRegistration(context, flags, port, isTls) : undefined,
        waitsForStore,
        signal,
      },
      log,
    );
  let starting = start(false);
  const reloadToken: Reloader = {
    what: 'the token',
    async reload() {
      config.reload();
      const replacement = config.token()?.value;
      (await starting).replaceToken(replacement);
      token = replacement;
    },
  };
  const reloadCertificates: Reloader = {
    what: 'the certificate',
    async reload() {
      config.reload();
      const replacement = serverCertificates(config);
      (await starting).replaceCertificates(replacement);
      certificates = replacement;
    },
  };
  let isFirst = true;
  /** @returns false if the registry must be started again */
  const untilEnd = async (): Promise<boolean> => {
    const daemon = await starting.catch((error: unknown) => {
      if (!signal.aborted || error !== signal.reason) throw error;
      return undefined;
    });
    if (!daemon) {
      log.info('stopped before the store was loaded');
      await lifecycle.stopping();
      return true;
    }
    status = daemon.status;
    const data = config.get('store') ?? daemon.dataDir;
    const line = `vreg ${context.version} listening on ${daemon.urls.join(' and ')}, data in ${data}`;
    if (log.isLevelEnabled('info')) log.info({ urls: daemon.urls, dataDir: daemon.dataDir }, line);
    else context.note(line.replace(/^vreg /, ''));
    if (isFirst) lifecycle.reloadOnHangup(isTls ? [reloadToken, reloadCertificates] : [reloadToken]);
    isFirst = false;
    await lifecycle.ready();
    await Promise.race([lifecycle.untilStopped(), daemon.outdated]);
    if (signal.aborted) {
      log.info('stopping: finishing accepted requests');
      await Promise.all([lifecycle.stopping(), daemon.close()]);
      log.info('stopped');
      return true;
    }
    status = () => 'loading the store';
    // The port that was picked for --port 0 is the one that clients know.
    port = daemon.port ?? port;
    await daemon.close();
    return false;
  };
  while (!(await untilEnd())) starting = start(true);
}

/** Undefined for the embedded store. */
function etcdSettings({ config }: Context): EtcdSettings | undefined {
  const url = config.get('store');
  if (url === undefined) return undefined;
  return {
    url,
    user: config.get('etcd-user'),
    passwordFile: config.get('etcd-password-file'),
    ca: config.get('etcd-ca'),
    cert: config.get('etcd-cert'),
    key: config.get('etcd-key'),
    flushInterval: config.duration('heartbeat-flush'),
  };
}

/** @returns a share from 0 to 1; for `off` 1, which no loss exceeds */
function parseMassLoss(massLoss: string): number {
  return massLoss === 'off' ? 1 : Number(massLoss.slice(0, -1)) / 100;
}

/**
 * The registration of the daemon's own VM. By default it has the services board, feed and registry on the daemon's port, as in
 * vers-agent-services; with TLS, they state their protocol, so that clients build https URLs.
 */
function selfRegistration(
  { config }: Context,
  { service, meta }: ThisVmFlags,
  port: number | undefined,
  isTls: boolean,
): Registration {
  const id = thisVmId(config);
  const shared = { healthPath: '/health', ...(isTls ? { protocol: 'https' } : {}) };
  const defaults: Service[] =
    port === undefined ? [] : ['board', 'feed', 'registry'].map((name) => ({ name, port, ...shared }));
  const vm = parseOwnRegistration({
    id,
    name: config.get('name') ?? 'infra',
    role: config.isSet('role') ? config.get('role') : 'infra',
    address: config.get('address') ?? defaultAddress(id),
    registeredBy: config.get('registered-by') ?? 'self',
    services: service ? service.map(parseServiceFlag) : defaults,
    ...(meta ? { metadata: parseMetaFlags(meta) } : {}),
    parentId: findParent(config, id),
    status: 'running',
  });
  return withMetadata(config, vm);
}
