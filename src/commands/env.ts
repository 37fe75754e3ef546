import { type Context, defineCommand } from '../command.ts';
import { isTextFormat } from '../config/settings.ts';
import { quotePosix, variablesOfRole } from '../fleet/env.ts';
import { SCHEME_FLAG } from '../fleet/flags.ts';
import { noLiveVm, requireRoles } from '../fleet/lookup.ts';
import { noteFaults, separate } from '../fleet/usable.ts';
import type { UrlParts } from '../fleet/vm-url.ts';
import { exclusiveFlags } from '../protocol/errors.ts';
import { ROLES } from '../protocol/vm.ts';

interface Flags extends Pick<UrlParts, 'scheme'> {
  export?: boolean;
  fish?: boolean;
}

export const env = defineCommand<Flags>({
  name: 'env',
  summary: 'print addresses of live VMs as environment variables',
  description:
    'Prints variables for each role that has live VMs. VREG_<ROLE>_ID, VREG_<ROLE>_ADDR and VREG_<ROLE>_URL describe the oldest VM; VREG_<ROLE>_ADDRS lists the addresses of all live VMs with the role. VREG_<ROLE>_URL is built as in vreg url, and omitted with a warning if the VM has several ports or none. If a given role has no live VM, nothing is printed and the exit code is 3. Because eval ignores the exit code, assign the output to a variable first, as in the second example. --json prints one object.',
  arguments: [{ name: 'role', about: 'roles (default: all)', optional: true, variadic: true, values: ROLES }],
  flags: [
    { flags: '--export', about: 'prefix each line with export, for eval in a POSIX shell' },
    { flags: '--fish', about: 'print set -gx lines for fish' },
    SCHEME_FLAG,
  ],
  examples: [
    { about: 'set the variables in this shell', command: 'eval "$(vreg env infra --export)"' },
    {
      about: 'stop the script if there is no infra VM',
      command: 'vars=$(vreg env infra --export) || exit; eval "$vars"',
    },
    { about: 'write an environment file for a unit', command: 'vreg env infra worker > fleet.env' },
    { about: 'as JSON', command: 'vreg env --json' },
  ],
  exits: [2, 3, 8],
  async run(context, roles, flags) {
    if (flags.export && flags.fish) throw exclusiveFlags('--fish', '--export');
    const variables = await variablesOf(context, roles, flags);
    const lines = Object.entries(variables).map(([name, value]) => {
      if (flags.fish) return `set -gx ${name} ${quoteFish(value)}`;
      return `${flags.export ? 'export ' : ''}${name}=${quotePosix(value)}`;
    });
    if (lines.length > 0 || !isTextFormat(context.format))
      await context.print({ kind: 'value', text: lines.join('\n'), data: variables });
  },
});

async function variablesOf(
  context: Context,
  roles: readonly string[],
  { scheme }: Flags,
): Promise<Record<string, string>> {
  const variables: Record<string, string> = {};
  for (const role of roles.length > 0 ? requireRoles(roles) : ROLES) {
    const { usable, faults } = separate(await context.client().discover(role));
    const [oldest, ...others] = usable;
    if (!oldest && roles.length > 0) throw faults[0] ?? (await noLiveVm(context, role));
    noteFaults(context, faults);
    if (!oldest) continue;
    const found = variablesOfRole(role, [oldest, ...others], context.client().urls, { scheme });
    Object.assign(variables, found.variables);
    if (found.fault) context.note(`VREG_${role.toUpperCase()}_URL is omitted: ${found.fault.message}`);
  }
  return variables;
}

function quoteFish(value: string): string {
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
