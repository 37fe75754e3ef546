/** What is closed to the services of vreg, in the words of systemd.exec(5). */

/** What both managers can do: the rest needs what only the system's may. */
export const USER_SANDBOX: readonly string[] = [
  'NoNewPrivileges=yes',
  '# Not MemoryDenyWriteExecute, with which Node cannot run. AF_NETLINK is for the list of network interfaces.',
  'RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK',
  'RestrictNamespaces=yes',
  'RestrictRealtime=yes',
  'RestrictSUIDSGID=yes',
  'LockPersonality=yes',
  'SystemCallArchitectures=native',
  '# Node 20 calls pkey_alloc at its start, which is not in @system-service.',
  'SystemCallFilter=@system-service @pkey',
  'SystemCallFilter=~@privileged @resources',
  'SystemCallErrorNumber=EPERM',
];

export const SANDBOX: readonly string[] = [
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
