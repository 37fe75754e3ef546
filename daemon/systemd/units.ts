/**
 * The systemd units: what an operator enables once and forgets. Pure text, from a few choices. Each line of hardening is
 * one that Node and vreg can live with; what is left out, and why, stands beside it.
 */

export const UNIT_KINDS = ['serve', 'agent', 'heartbeat-timer', 'wait-online'] as const;
export type UnitKind = (typeof UNIT_KINDS)[number];

export interface UnitOptions {
  /** The program and its first arguments, with absolute paths: Node and `vreg.js`. */
  program: readonly string[];
  /** More arguments of the command. */
  args: readonly string[];
  /** For a user's own manager instead of the system's. */
  user: boolean;
  /** File that `LoadCredential` hands over as the token; undefined: no token. */
  token: string | undefined;
}

export interface UnitFile {
  name: string;
  text: string;
  /** Enabled by `systemctl enable`; the others are started by these. */
  enable: boolean;
}

/** Exit codes that a restart does not change (README, Exit codes): not allowed, bad config; of a clone, too. */
const NO_RESTART = '2 5';
const NO_RESTART_OF_CLONE = '2 5 9';

export function unitsOf(kind: UnitKind, options: UnitOptions): UnitFile[] {
  switch (kind) {
    case 'serve':
      return [{ name: 'vreg-serve.service', text: serve(options), enable: true }];
    case 'agent':
      return [{ name: 'vreg-agent.service', text: agent(options), enable: true }];
    case 'heartbeat-timer':
      return [
        { name: 'vreg-heartbeat.service', text: heartbeat(options), enable: false },
        { name: 'vreg-heartbeat.timer', text: HEARTBEAT_TIMER, enable: true },
      ];
    case 'wait-online':
      return [
        { name: 'vreg-wait-online.service', text: waitOnline(options), enable: false },
        { name: 'vreg-online.target', text: onlineTarget(options), enable: true },
      ];
  }
}

function serve(options: UnitOptions): string {
  return `[Unit]
Description=vreg registry of VMs
Documentation=man:vreg-daemon(1)
${afterNetwork(options, ' time-sync.target')}StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=notify
# systemd-notify(1) is a process of its own.
NotifyAccess=all
ExecStart=${commandLine(options, ['daemon', 'serve'])}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=${NO_RESTART}
# The check of a large database comes before it is ready, and the drain of slow clients before it has stopped.
TimeoutStartSec=5min
TimeoutStopSec=45
KillMode=mixed
# Far above any pause of a busy machine; a VM that was suspended must not be killed when it goes on.
WatchdogSec=120
StateDirectory=vreg
StateDirectoryMode=0700
RuntimeDirectory=vreg-serve
RuntimeDirectoryMode=0700
SyslogIdentifier=vreg-serve
${environment(options)}${credential(options)}${hardening(options)}
[Install]
WantedBy=${options.user ? 'default.target' : 'multi-user.target'}
`;
}

function agent(options: UnitOptions): string {
  return `[Unit]
Description=vreg heartbeat agent of this VM
Documentation=man:vreg-daemon(1)
${afterNetwork(options)}StartLimitIntervalSec=0

[Service]
Type=notify
# systemd-notify(1) is a process of its own.
NotifyAccess=all
ExecStart=${commandLine(options, ['daemon', 'agent'])}
ExecReload=/bin/kill -HUP $MAINPID
# A registry that is away is no reason to end, so whatever ends it is worth another try, but for these.
Restart=always
RestartSec=5
RestartPreventExitStatus=${NO_RESTART_OF_CLONE}
TimeoutStopSec=10
KillMode=mixed
WatchdogSec=180
StateDirectory=vreg-agent
StateDirectoryMode=0700
# by-role/ROLE/addr and env are here for every script of this VM.
RuntimeDirectory=vreg
RuntimeDirectoryMode=0755
SyslogIdentifier=vreg-agent
${environment(options)}${credential(options)}${hardening(options)}
[Install]
WantedBy=${options.user ? 'default.target' : 'multi-user.target'}
`;
}

function heartbeat(options: UnitOptions): string {
  const command = ['heartbeat', '--register-if-missing', '--state-dir', '%S/vreg-heartbeat'];
  return `[Unit]
Description=vreg heartbeat of this VM, once
Documentation=man:vreg-heartbeat(1)
${afterNetwork(options)}
[Service]
Type=oneshot
ExecStart=${commandLine(options, command)}
TimeoutStartSec=30
StateDirectory=vreg-heartbeat
StateDirectoryMode=0700
SyslogIdentifier=vreg-heartbeat
${environment(options)}${credential(options)}${hardening(options)}`;
}

/** `OnClockChange` fires when the wall clock steps against the monotonic one: right after a VM was resumed. */
const HEARTBEAT_TIMER = `[Unit]
Description=vreg heartbeats of this VM, each minute and after each resume
Documentation=man:vreg-heartbeat(1)

[Timer]
OnBootSec=5s
OnUnitInactiveSec=60s
RandomizedDelaySec=10s
OnClockChange=yes

[Install]
WantedBy=timers.target
`;

function waitOnline(options: UnitOptions): string {
  const what = options.args.length > 0 ? [] : ['--for', 'registry'];
  return `[Unit]
Description=Wait until the vreg registry answers
Documentation=man:vreg-wait(1)
${afterNetwork(options)}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${commandLine(options, ['wait', ...what, '--timeout', '2m'])}
TimeoutStartSec=150
SyslogIdentifier=vreg-wait-online
${environment(options)}${credential(options)}${hardening(options)}`;
}

function onlineTarget({ user }: UnitOptions): string {
  return `[Unit]
Description=The vreg registry answers
Documentation=man:vreg-wait(1)
Requires=vreg-wait-online.service
After=vreg-wait-online.service

[Install]
WantedBy=${user ? 'default.target' : 'multi-user.target'}
`;
}

/** A user's manager knows no targets of the system. */
function afterNetwork({ user }: UnitOptions, more = ''): string {
  return user ? '' : `Wants=network-online.target\nAfter=network-online.target${more}\n`;
}

/** Settings for all units of this machine: VERS_INFRA_URL, VERS_VM_ID and the like. A secret does not belong there. */
function environment({ user }: UnitOptions): string {
  return user ? 'EnvironmentFile=-%E/vreg/env\n' : 'EnvironmentFile=-/etc/default/vreg\n';
}

function credential({ token }: UnitOptions): string {
  return token === undefined ? '' : `LoadCredential=token:${token}\n`;
}

/** What every process here can do without. Each is possible in a user's manager. */
const FOR_ALL = `UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
# AF_NETLINK: Node lists the network interfaces with it.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
# Node 20 calls pkey_alloc at its start; without EPERM an unexpected call would end it.
SystemCallFilter=@system-service @pkey
SystemCallFilter=~@resources @privileged
SystemCallErrorNumber=EPERM
`;

/** What needs the system's manager. MemoryDenyWriteExecute is left out: V8 compiles. */
const FOR_SYSTEM = `DynamicUser=yes
PrivateUsers=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateMounts=yes
RemoveIPC=yes
DevicePolicy=closed
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
CapabilityBoundingSet=
AmbientCapabilities=
`;

function hardening({ user }: UnitOptions): string {
  return user ? FOR_ALL : FOR_ALL + FOR_SYSTEM;
}

function commandLine({ program, args }: UnitOptions, command: readonly string[]): string {
  return [...program.map(quote), ...command, ...args.map(quote)].join(' ');
}

/** A word as systemd reads it (systemd.syntax(7), systemd.service(5)): no specifier, no variable, no quote is meant. */
function quote(word: string): string {
  const plain = word.replaceAll('%', '%%').replaceAll('$', '$$$$');
  return /^[\w@%+=:,./$-]+$/.test(plain) ? plain : `"${plain.replace(/["\\]/g, '\\$&').replaceAll('\n', '\\n')}"`;
}
