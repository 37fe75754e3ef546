/**
 * The text of the systemd units. Each is whole in itself: it can be printed, read, put in place, and changed by a drop-in
 * (`systemctl edit`). What they ask for is understood by systemd 250 and newer; older versions ignore what they do not know.
 */
import { SANDBOX, USER_SANDBOX } from './sandbox.ts';

export const UNIT_KINDS = ['serve', 'agent', 'heartbeat-timer', 'wait-online'] as const;
export type UnitKind = (typeof UNIT_KINDS)[number];

export interface UnitFile {
  /** `vreg-agent.service` */
  name: string;
  text: string;
}

export interface UnitOptions {
  /** Absolute paths of Node and of the program. */
  node: string;
  bin: string;
  /** Flags and arguments for the command that the unit runs. */
  args: readonly string[];
  /** For the manager of one user instead of the system's. */
  user: boolean;
  /** Hands the token file over as a credential. Without it the unit fails where there is no such file. */
  token: boolean;
  /** Hands a certificate and its key over as credentials: the registry's own, or what to show to it. */
  tls: boolean;
}

/** What the unit is enabled or started by; undefined where other units ask for it. */
export const ENABLED_UNIT: Readonly<Record<UnitKind, string | undefined>> = {
  serve: 'vreg-serve.service',
  agent: 'vreg-agent.service',
  'heartbeat-timer': 'vreg-heartbeat.timer',
  'wait-online': undefined,
};
/** What `--now` starts. */
export const STARTED_UNIT: Readonly<Record<UnitKind, string>> = {
  serve: 'vreg-serve.service',
  agent: 'vreg-agent.service',
  'heartbeat-timer': 'vreg-heartbeat.timer',
  'wait-online': 'vreg-online.target',
};

/** Words of `vreg` that each kind runs, as they stand in a unit: `%S` is the folder for states. */
export const UNIT_COMMAND: Readonly<Record<UnitKind, readonly string[]>> = {
  serve: ['daemon', 'serve'],
  agent: ['daemon', 'agent'],
  // The state is what it proves with that its VM is no clone.
  'heartbeat-timer': ['heartbeat', '--register-if-missing', '--state-dir', '%S/vreg-heartbeat'],
  'wait-online': ['wait', '--for', 'self', '--timeout', '5m'],
};

/** Exit codes that a restart does not change: 2 not allowed, 5 bad config; 243 is systemd's for a credential that is not there. */
const FATAL_EXIT_CODES = '2 5 243';

export function unitsOf(kind: UnitKind, options: UnitOptions): UnitFile[] {
  return UNITS[kind](options);
}

const UNITS: Readonly<Record<UnitKind, (options: UnitOptions) => UnitFile[]>> = {
  serve: (options) => [
    {
      name: 'vreg-serve.service',
      text: unit(
        'vreg registry',
        [...network(options), 'StartLimitIntervalSec=300', 'StartLimitBurst=10'],
        [
          'Type=notify',
          '# The words to systemd come from systemd-notify, a child.',
          'NotifyAccess=all',
          `ExecStart=${execStart('serve', options)}`,
          'ExecReload=kill -HUP $MAINPID',
          'WatchdogSec=60',
          'Restart=on-failure',
          'RestartSec=2',
          '# Not when it is not allowed (2), its configuration is wrong (5), or its token is not there.',
          `RestartPreventExitStatus=${FATAL_EXIT_CODES}`,
          '# The whole store is checked first.',
          'TimeoutStartSec=300',
          '# What it accepted is answered.',
          'TimeoutStopSec=45',
          'KillMode=mixed',
          'StateDirectory=vreg',
          'StateDirectoryMode=0700',
          'RuntimeDirectory=vreg-serve',
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
        'vreg agent, which keeps this VM in the registry',
        [...network(options), '# It comes back however often it ends.', 'StartLimitIntervalSec=0'],
        [
          'Type=notify',
          '# The words to systemd come from systemd-notify, a child.',
          'NotifyAccess=all',
          `ExecStart=${execStart('agent', options)}`,
          'ExecReload=kill -HUP $MAINPID',
          '# Longer than a VM may be paused in the middle of a beat. A registry that is away is no reason for a restart.',
          'WatchdogSec=180',
          'Restart=always',
          'RestartSec=5',
          '# Not when it is not allowed (2), its configuration is wrong (5), another VM has its identity (9), or its token is',
          '# not there.',
          `RestartPreventExitStatus=2 5 9 243`,
          '# It tells the registry that the VM stops.',
          'TimeoutStopSec=10',
          'KillMode=mixed',
          'StateDirectory=vreg-agent',
          'StateDirectoryMode=0700',
          '# Not preserved while it is stopped: with DynamicUser a preserved one is closed to other users.',
          'RuntimeDirectory=vreg',
          '# The addresses in it are for every script of this VM; its state folder is closed to others.',
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
        'One sign of life of this VM for the vreg registry',
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
            'Description=Signs of life of this VM for the vreg registry',
            'Documentation=man:vreg-heartbeat(1)',
            '# The agent does the same, and more.',
            'Conflicts=vreg-agent.service',
          ],
        ],
        [
          'Timer',
          [
            'OnBootSec=5',
            'OnUnitInactiveSec=60',
            '# The wall clock steps when a VM is resumed, or its clock is set right after it.',
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
        'Wait until the vreg registry answers and this VM is live',
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
          '# vreg wait has a time limit of its own.',
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
            '# Another unit waits for it with Requires=vreg-online.target and After=vreg-online.target.',
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

/** The manager of a user knows no network. */
function network({ user }: UnitOptions): string[] {
  const targets = 'network-online.target nss-lookup.target time-sync.target';
  return user ? [] : ['Wants=network-online.target', `After=${targets}`];
}

/** `%E` is the folder for configuration: /etc of the system, ~/.config of a user. */
function environment({ token, tls }: UnitOptions, name: string): string[] {
  const [cert, key] = name === 'vreg-serve' ? ['tls-cert', 'tls-key'] : ['cert-file', 'key-file'];
  return [
    '# VERS_INFRA_URL, VERS_VM_ID, VREG_... as NAME=value, if there is such a file.',
    'EnvironmentFile=-%E/vreg/env',
    ...(token
      ? [
          '# Read by systemd; only this unit sees its copy. If it is not there, the unit fails.',
          'LoadCredential=token:%E/vreg/token',
        ]
      : []),
    ...(tls
      ? [
          '# As the token. Renewed files are read by a restart: a reload has the copies of the start.',
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

function execStart(kind: UnitKind, { node, bin, args }: UnitOptions): string {
  // In the path of the program itself systemd replaces no variables.
  const program = quote(node.replaceAll('%', '%%'));
  return [program, escapeArgument(bin), ...UNIT_COMMAND[kind], ...args.map(escapeArgument)].join(' ');
}

/** One word as systemd.service(5) reads it back: no specifiers, no variables. */
function escapeArgument(word: string): string {
  return quote(word.replaceAll('%', '%%').replaceAll('$', '$$$$'));
}

function quote(word: string): string {
  if (/^[\w@%+=:,./$-]+$/.test(word)) return word;
  return `"${word.replace(/[\\"]/g, '\\$&')}"`;
}
