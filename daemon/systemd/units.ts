/**
 * The text of the systemd units. Each unit is complete: it can be printed, reviewed, installed, and changed with a drop-in
 * (`systemctl edit`). The units use options from systemd 250; older versions ignore unknown options.
 */

export const UNIT_KINDS = ['serve', 'agent', 'heartbeat-timer', 'wait-online'] as const;
export type UnitKind = (typeof UNIT_KINDS)[number];

export interface UnitFile {
  /** For example `vreg-agent.service`. */
  name: string;
  text: string;
}

export interface UnitOptions {
  /** Absolute paths of Node and of the program, or of the single executable. */
  program: readonly string[];
  /** True if the program unpacks its native addon. */
  unpacks: boolean;
  /** Additional arguments for the command that the unit runs. */
  args: readonly string[];
  /** Creates units for the user's service manager instead of the system's. */
  user: boolean;
  /** Loads the token file as a credential; the unit fails if there is no such file. */
  token: boolean;
  /** Loads a certificate and its key as credentials: the registry's own, or the agent's client certificate. */
  tls: boolean;
}

/** The unit to enable; undefined if other units require it instead. */
export const ENABLED_UNIT: Readonly<Record<UnitKind, string | undefined>> = {
  serve: 'vreg-serve.service',
  agent: 'vreg-agent.service',
  'heartbeat-timer': 'vreg-heartbeat.timer',
  'wait-online': undefined,
};
/** The unit that `--now` starts. */
export const STARTED_UNIT: Readonly<Record<UnitKind, string>> = {
  serve: 'vreg-serve.service',
  agent: 'vreg-agent.service',
  'heartbeat-timer': 'vreg-heartbeat.timer',
  'wait-online': 'vreg-online.target',
};

/** The `vreg` command for each kind. systemd replaces `%S` with the state folder. */
export const UNIT_COMMAND: Readonly<Record<UnitKind, readonly string[]>> = {
  serve: ['daemon', 'serve'],
  agent: ['daemon', 'agent'],
  // The state folder contains the identity, with which each heartbeat proves that the VM is not a clone.
  'heartbeat-timer': ['heartbeat', '--register-if-missing', '--state-dir', '%S/vreg-heartbeat'],
  'wait-online': ['wait', '--for', 'self', '--timeout', '5m'],
};

/**
 * Exit codes after which a restart would fail again: 2 not allowed, 5 bad configuration, 243 missing credential
 * (systemd.exec(5)).
 */
const FATAL_EXIT_CODES = '2 5 243';

/** Exit code of a registry whose port or data dir is in use. */
const IN_USE_EXIT_CODE = 4;
/** Seconds to wait after this exit code. With `RestartSec=2`, the registry is started every 30 s. */
const IN_USE_DELAY = 28;

/** Hardening that works in system and in user units (systemd.exec(5)). */
const USER_SANDBOX: readonly string[] = [
  'NoNewPrivileges=yes',
  '# Node cannot run with MemoryDenyWriteExecute. AF_NETLINK is needed to list the network interfaces.',
  'RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK',
  'RestrictNamespaces=yes',
  'RestrictRealtime=yes',
  'RestrictSUIDSGID=yes',
  'LockPersonality=yes',
  'SystemCallArchitectures=native',
  '# Node 20 calls pkey_alloc at start, which is not in @system-service.',
  'SystemCallFilter=@system-service @pkey',
  'SystemCallFilter=~@privileged @resources',
  'SystemCallErrorNumber=EPERM',
];

/** Hardening of system units: `USER_SANDBOX`, and options that only the system manager can apply. */
const SANDBOX: readonly string[] = [
  'DynamicUser=yes',
  'CapabilityBoundingSet=',
  'ProtectSystem=strict',
  'ProtectHome=yes',
  'ProtectClock=yes',
  'ProtectControlGroups=yes',
  'ProtectHostname=yes',
  'ProtectKernelLogs=yes',
  'ProtectKernelModules=yes',
  'ProtectKernelTunables=yes',
  'ProtectProc=invisible',
  'PrivateDevices=yes',
  'PrivateTmp=yes',
  'PrivateUsers=yes',
  'RemoveIPC=yes',
  ...USER_SANDBOX,
];

/** @returns the unit files for a kind */
export function unitsOf(kind: UnitKind, options: UnitOptions): UnitFile[] {
  return UNITS[kind](options);
}

const UNITS: Readonly<Record<UnitKind, (options: UnitOptions) => UnitFile[]>> = {
  serve: (options) => [
    {
      name: 'vreg-serve.service',
      text: unit(
        'vreg registry',
        [
          ...network(options),
          '# Stop restarting it after ten quick crashes. The retries after the exit code 4 are too slow to count.',
          'StartLimitIntervalSec=120',
          'StartLimitBurst=10',
        ],
        [
          'Type=notify',
          '# The notifications come from systemd-notify, a child process.',
          'NotifyAccess=all',
          `ExecStart=${execStart('serve', options)}`,
          'ExecReload=kill -HUP $MAINPID',
          'WatchdogSec=60',
          'Restart=on-failure',
          'RestartSec=2',
          '# Another process uses the port or the data dir (4): retry every 30 s.',
          `ExecStopPost=/bin/sh -c 'test "$$EXIT_STATUS" != ${IN_USE_EXIT_CODE} || sleep ${IN_USE_DELAY}'`,
          '# Do not restart if access is denied (2), the configuration is invalid (5), or the credential is missing (243).',
          `RestartPreventExitStatus=${FATAL_EXIT_CODES}`,
          '# A SIGHUP during the start, before the program handles it, must not end the unit.',
          'RestartForceExitStatus=SIGHUP',
          '# Each start checks the entire store.',
          'TimeoutStartSec=300',
          '# Time to answer accepted requests.',
          'TimeoutStopSec=45',
          'KillMode=mixed',
          'StateDirectory=vreg',
          'StateDirectoryMode=0700',
          'RuntimeDirectory=vreg-serve',
          ...(options.unpacks
            ? [
                '# The single executable unpacks its SQLite library here.',
                'CacheDirectory=vreg',
                'CacheDirectoryMode=0700',
              ]
            : []),
          'UMask=0077',
          ...environment(options, 'vreg-serve'),
        ],
        options,
        options.user ? 'default.target' : 'multi-user.target',
      ),
    },
  ],
  agent: (options) => [
    {
      name: 'vreg-agent.service',
      text: unit(
        'vreg heartbeat agent for this VM',
        [...network(options), '# Restart it no matter how often it exits.', 'StartLimitIntervalSec=0'],
        [
          'Type=notify',
          '# The notifications come from systemd-notify, a child process.',
          'NotifyAccess=all',
          `ExecStart=${execStart('agent', options)}`,
          'ExecReload=kill -HUP $MAINPID',
          '# Longer than VMs are usually paused. An unreachable registry does not trigger the watchdog.',
          'WatchdogSec=180',
          'Restart=always',
          'RestartSec=5',
          '# Do not restart if access is denied (2), the configuration is invalid (5), another VM has the identity (9), or the',
          '# credential is missing (243).',
          'RestartPreventExitStatus=2 5 9 243',
          '# A SIGHUP during the start, before the program handles it, must not end the unit.',
          'RestartForceExitStatus=SIGHUP',
          '# Time to set the status of the VM to stopped.',
          'TimeoutStopSec=10',
          'KillMode=mixed',
          'StateDirectory=vreg-agent',
          'StateDirectoryMode=0700',
          '# Removed when the agent stops: because of DynamicUser, other users could not read a preserved folder.',
          'RuntimeDirectory=vreg',
          '# Every user of this VM may read the address files in it. The state folder is private.',
          'UMask=0022',
          ...environment(options, 'vreg-agent'),
        ],
        options,
        options.user ? 'default.target' : 'multi-user.target',
      ),
    },
  ],
  'heartbeat-timer': (options) => [
    {
      name: 'vreg-heartbeat.service',
      text: unit(
        'vreg heartbeat for this VM',
        network(options),
        [
          'Type=oneshot',
          `ExecStart=${execStart('heartbeat-timer', options)}`,
          'TimeoutStartSec=30',
          'StateDirectory=vreg-heartbeat',
          'StateDirectoryMode=0700',
          ...environment(options, 'vreg-heartbeat'),
        ],
        options,
      ),
    },
    {
      name: 'vreg-heartbeat.timer',
      text: sections([
        [
          'Unit',
          [
            'Description=Regular vreg heartbeats for this VM',
            'Documentation=man:vreg-heartbeat(1)',
            '# The agent also sends heartbeats.',
            'Conflicts=vreg-agent.service',
          ],
        ],
        [
          'Timer',
          [
            'OnBootSec=5',
            'OnUnitInactiveSec=60',
            '# The clock is set after the VM is resumed, when its entry may be stale.',
            'OnClockChange=yes',
            'RandomizedDelaySec=10',
            'AccuracySec=1',
          ],
        ],
        ['Install', ['WantedBy=timers.target']],
      ]),
    },
  ],
  'wait-online': (options) => [
    {
      name: 'vreg-wait-online.service',
      text: unit(
        'Wait until this VM is live in the vreg registry',
        [
          ...network(options),
          'After=vreg-agent.service vreg-heartbeat.timer',
          'Before=vreg-online.target',
          'PartOf=vreg-online.target',
        ],
        [
          'Type=oneshot',
          'RemainAfterExit=yes',
          `ExecStart=${execStart('wait-online', options)}`,
          '# vreg wait has a timeout of its own.',
          'TimeoutStartSec=infinity',
          ...environment(options, 'vreg-wait-online'),
        ],
        options,
      ),
    },
    {
      name: 'vreg-online.target',
      text: sections([
        [
          'Unit',
          [
            'Description=This VM is live in the vreg registry',
            'Documentation=man:vreg-daemon(1)',
            '# To wait for it, other units use Requires=vreg-online.target and After=vreg-online.target.',
            'Requires=vreg-wait-online.service',
            'After=vreg-wait-online.service',
          ],
        ],
      ]),
    },
  ],
};

function unit(
  description: string,
  head: readonly string[],
  service: readonly string[],
  { user }: UnitOptions,
  wantedBy?: string,
): string {
  return sections([
    ['Unit', [`Description=${description}`, 'Documentation=man:vreg-daemon(1)', ...head]],
    ['Service', [...service, '', ...(user ? USER_SANDBOX : SANDBOX)]],
    ...(wantedBy === undefined ? [] : ([['Install', [`WantedBy=${wantedBy}`]]] as const)),
  ]);
}

/** The service manager of a user has no network targets. */
function network({ user }: UnitOptions): string[] {
  const targets = 'network-online.target nss-lookup.target time-sync.target';
  return user ? [] : ['Wants=network-online.target', `After=${targets}`];
}

/** Environment file and credentials. systemd replaces `%E` with the configuration folder: /etc, or ~/.config for a user. */
function environment({ token, tls }: UnitOptions, name: string): string[] {
  const [cert, key] = name === 'vreg-serve' ? ['tls-cert', 'tls-key'] : ['cert-file', 'key-file'];
  return [
    '# Optional: VERS_INFRA_URL, VERS_VM_ID, VREG_... as NAME=value.',
    'EnvironmentFile=-%E/vreg/env',
    ...(token
      ? [
          '# systemd gives this unit a private copy. If the file is missing, the unit fails.',
          'LoadCredential=token:%E/vreg/token',
        ]
      : []),
    ...(tls
      ? [
          '# Also private copies. Restart the unit after a renewal, because a reload still reads the old copies.',
          `LoadCredential=${cert}:%E/vreg/tls.crt`,
          `LoadCredential=${key}:%E/vreg/tls.key`,
        ]
      : []),
    `SyslogIdentifier=${name}`,
  ];
}

function sections(parts: readonly (readonly [title: string, lines: readonly string[]])[]): string {
  return parts.map(([title, lines]) => `[${title}]\n${lines.join('\n')}\n`).join('\n');
}

function execStart(kind: UnitKind, { program: [path, ...script], args }: UnitOptions): string {
  // systemd does not expand variables in the path of the program.
  const program = quote(path!.replaceAll('%', '%%'));
  return [program, ...[...script, ...UNIT_COMMAND[kind], ...args].map(escapeArgument)].join(' ');
}

/** Escapes specifiers and variables, so that systemd passes the argument unchanged (systemd.service(5)). */
function escapeArgument(argument: string): string {
  return quote(argument.replaceAll('%', '%%').replaceAll('$', '$$$$'));
}

function quote(argument: string): string {
  if (/^[\w@%+=:,./$-]+$/.test(argument)) return argument;
  return `"${argument.replace(/[\\"]/g, '\\$&')}"`;
}
