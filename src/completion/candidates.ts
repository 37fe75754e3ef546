/** The candidates for the word at the cursor: commands, flags, fixed values, and values from the registry and the config file. */
import type { Command, Context, ValueKind } from '../command.ts';
import { isSettingKey } from '../config/settings.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { livenessOf } from '../protocol/liveness.ts';
import { maskRegistryUrls, printable } from '../protocol/redact.ts';
import { isRole, looksLikeFlag, ROLES } from '../protocol/vm.ts';
import { type CommandLine, findCommand, type Offers, offersOfSetting, readCommandLine } from './command-line.ts';
import { Sources } from './sources.ts';

export interface Candidate {
  value: string;
  /** Description; may be empty. */
  about: string;
}

export interface Completion {
  /**
   * `values` and `nospace`: the candidates; with `nospace`, the shell appends no space, because the word continues. `files`: the
   * shell completes file names. `program`: the shell completes the words after `--` as another command line.
   */
  kind: 'values' | 'nospace' | 'files' | 'program';
  /** The start of the word that the candidates do not replace: `--role=`, or `task=billing,` of a selector. */
  prefix: string;
  /** Candidates for the rest of the word. */
  candidates: readonly Candidate[];
}

/** Candidates for the last part of a word. */
interface Part {
  /** Characters of the word before that part. */
  skip: number;
  candidates: readonly Candidate[];
  /** The word may continue after the candidate, for example with `=VALUE`. */
  continues?: true;
}

/**
 * @param words the words after `vreg` without quotes, up to the cursor; the last one may be empty
 * @param timeout milliseconds to wait for the registry
 * @param isFile the last word is a file, for example after `>`
 */
export async function complete(
  words: readonly string[],
  context: Context,
  timeout: number,
  isFile = false,
): Promise<Completion> {
  if (isFile) return { kind: 'files', prefix: '', candidates: [] };
  const line = readCommandLine(programOf(await context.commands()), words);
  const { next, current, command, args } = line;
  switch (next.kind) {
    case 'flag':
      return offer(current, { skip: 0, candidates: flagNames(line) });
    case 'value':
      return completeValue(next.flag, next.skip, line, new Sources(line, context, timeout));
    case 'program':
      return { kind: 'program', prefix: '', candidates: [] };
    case 'argument': {
      if (command.commands) return offer(current, { skip: 0, candidates: commandNames(command.commands, current) });
      const argument = command.arguments?.[args.length] ?? command.arguments?.at(-1);
      const isExtra = args.length >= (command.arguments?.length ?? 0) && argument?.variadic !== true;
      if (!argument || isExtra) return NONE;
      if (argument.values === 'unit-arguments') {
        const [kind = '', ...flags] = args;
        const path = UNIT_COMMANDS[kind];
        return path ? complete([...path, ...flags, current], context, timeout) : NONE;
      }
      return completeValue(argument, 0, line, new Sources(line, context, timeout));
    }
    case 'unknown':
      return NONE;
  }
}

function programOf(commands: readonly Command<never>[]): Command<never> {
  const flags = [{ flags: '-V, --version', about: 'print the version' }];
  return { name: 'vreg', summary: '', examples: [], commands, flags };
}

/** Commands that systemd units run, as in UNIT_COMMAND in daemon/systemd/units.ts, by kind of unit. */
export const UNIT_COMMANDS: Readonly<Record<string, readonly string[]>> = {
  serve: ['daemon', 'serve'],
  agent: ['daemon', 'agent'],
  'heartbeat-timer': ['heartbeat'],
  'wait-online': ['wait'],
};

const NONE: Completion = { kind: 'values', prefix: '', candidates: [] };

/** The safe candidates that continue the word, without duplicates. */
function offer(word: string, { skip, candidates, continues }: Part): Completion {
  const typed = word.slice(skip);
  const unique = new Map<string, Candidate>();
  for (const { value, about } of candidates) {
    // A control character could end the candidate and begin another one.
    if (value.startsWith(typed) && value !== '' && printable(value) === value)
      unique.set(value, { value, about: printable(about) });
  }
  const found = [...unique.values()];
  const kind = found.length > 0 && found.every(({ value }) => continues || value.endsWith('=')) ? 'nospace' : 'values';
  return { kind, prefix: word.slice(0, skip), candidates: found };
}

/** Flags that the user may still add: those that are not on the line, and repeatable ones. */
function flagNames({ flags, given }: CommandLine): Candidate[] {
  return flags
    .filter((flag) => flag.isRepeatable || ![...given.keys()].some(({ long }) => long === flag.long))
    .flatMap(({ long, short, about }) => (short ? [long, short] : [long]).map((value) => ({ value, about })));
}

/** Names of commands, or their aliases if the user has begun to type an alias. */
function commandNames(commands: readonly Command<never>[], typed: string): Candidate[] {
  const names = commands.map(({ name, summary }) => ({ value: name, about: summary }));
  if (names.some(({ value }) => value.startsWith(typed))) return names;
  return commands.flatMap(({ aliases = [], summary }) => aliases.map((value) => ({ value, about: summary })));
}

async function completeValue(offers: Offers, skip: number, line: CommandLine, sources: Sources): Promise<Completion> {
  const { values, offers: more = [], file } = offers;
  const word = line.current.slice(skip);
  const prefix = line.current.slice(0, skip);
  if (file) return { kind: 'files', prefix, candidates: [] };
  if (values === 'setting-value') {
    const [key = ''] = line.args;
    return isSettingKey(key) ? completeValue(offersOfSetting(key), skip, line, sources) : NONE;
  }
  if (values === 'render-job') return renderJob(line.current);
  // A program comes only after `--`.
  if (values === 'program' || values === 'unit-arguments') return NONE;
  const part = typeof values === 'string' ? await PARTS[values](word, line, sources) : listed(word, values ?? [], line);
  // Words besides those of a list are alternatives to the entire value.
  const candidates = part.skip === 0 ? [...part.candidates, ...more.map(plain)] : part.candidates;
  return offer(line.current, { ...part, skip: skip + part.skip, candidates });
}

/** `TEMPLATE:DEST[:CMD]`: two files. */
function renderJob(word: string): Completion {
  const colons = word.split(':').length - 1;
  return colons > 1 ? NONE : { kind: 'files', prefix: word.slice(0, word.indexOf(':') + 1), candidates: [] };
}

type Parts = Record<
  Exclude<ValueKind, 'program' | 'setting-value' | 'render-job' | 'unit-arguments'>,
  (word: string, line: CommandLine, sources: Sources) => Part | Promise<Part>
>;

/** How to look up each kind of value. */
const PARTS: Parts = {
  ids: async (_word, { args }, sources) => whole(ids(await sources.vms(), args)),
  'roles-and-ids': async (_word, { args }, sources) =>
    whole([...ROLES.map((value) => ({ value, about: 'role' })), ...ids(await sources.vms(), args)]),
  services: async (_word, { args: [role] }, sources) => whole(services(withRole(await sources.vms(), role), false)),
  'service-ports': async (_word, _line, sources) => whole(services(await sources.vms(), true)),
  metadata: async (word, _line, sources) => {
    const equals = word.indexOf('=');
    const vms = await sources.vms();
    if (equals < 0) return whole(withEquals(metadataKeys(vms)));
    return { skip: equals + 1, candidates: metadataValues(vms, word.slice(0, equals)) };
  },
  'metadata-keys': async (word, { args, command }, sources) => {
    const all = await sources.vms();
    const named = command.arguments?.[0]?.values === 'ids' ? all.filter(({ id }) => args.includes(id)) : [];
    return listPart(word, metadataKeys(named.length > 0 ? named : all));
  },
  selector: async (word, _line, sources) => selectorPart(word, await sources.vms()),
  tokens: async (_word, { args }, sources) =>
    whole(
      (await sources.tokens())
        .filter(({ name }) => !args.includes(name))
        .map(({ name, scope }) => ({ value: name, about: scope })),
    ),
  contexts: (_word, _line, sources) =>
    whole(
      Object.entries(sources.contexts()).map(([value, { url }]) => ({
        value,
        about: typeof url === 'string' ? maskRegistryUrls(url) : '',
      })),
    ),
  commands: async (word, { args }, sources) => {
    let among: readonly Command<never>[] = await sources.context.commands();
    for (const name of args) among = findCommand(among, name)?.commands ?? [];
    return whole(commandNames(among, word));
  },
};

function plain(value: string): Candidate {
  return { value, about: '' };
}

function whole(candidates: readonly Candidate[]): Part {
  return { skip: 0, candidates };
}

/** Fixed values that are not on the line yet, also in a comma-separated list. */
function listed(word: string, values: readonly string[], { next, given, args }: CommandLine): Part {
  const isRepeated = next.kind === 'value' && next.flag.isRepeatable;
  const before = isRepeated ? (given.get(next.flag) ?? []).flatMap((value) => String(value).split(',')) : args;
  const rest = values.filter((value) => !before.includes(value));
  const { continues: _continues, ...part } = listPart(word, rest.map(plain));
  return part;
}

/** Candidates for the last item of a comma-separated list that are not in the list yet. */
function listPart(word: string, candidates: readonly Candidate[]): Part {
  const skip = word.lastIndexOf(',') + 1;
  const before = word.slice(0, skip).split(',');
  return { skip, candidates: candidates.filter(({ value }) => !before.includes(value)), continues: true };
}

/** The last term of a selector: `key`, `!key`, `key=value`, `key==value` or `key!=value`. */
function selectorPart(word: string, vms: readonly VmWithLiveness[]): Part {
  const start = word.lastIndexOf(',') + 1;
  const [operation, key] = /^\s*([^=!]+?)\s*(?:!=|==?)\s*/.exec(word.slice(start)) ?? [];
  if (operation === undefined || key === undefined) {
    const [not] = /^\s*!?/.exec(word.slice(start))!;
    const keys = metadataKeys(vms);
    return { skip: start + not.length, candidates: not.endsWith('!') ? keys : withEquals(keys), continues: true };
  }
  const values = metadataValues(vms, key).filter(({ value }) => !value.includes(','));
  return { skip: start + operation.length, candidates: values };
}

/** Ids that are not among the arguments yet. */
function ids(vms: readonly VmWithLiveness[], args: readonly string[]): Candidate[] {
  return vms
    .map((vm) => ({ value: String(vm.id), about: aboutVm(vm) }))
    .filter(({ value }) => !looksLikeFlag(value) && !args.includes(value));
}

/** `worker, live`, or `worker, paused, "billing"` for a VM whose name is not its id. */
function aboutVm(vm: VmWithLiveness): string {
  const { id, name, role } = vm;
  return [role, livenessOf(vm), ...(name === id ? [] : [`"${name}"`])].join(', ');
}

function withRole(vms: readonly VmWithLiveness[], role: string | undefined): readonly VmWithLiveness[] {
  return role !== undefined && isRole(role) ? vms.filter((vm) => vm.role === role) : vms;
}

/** Names of services, or `NAME:PORT`. Names that another registry accepted may be invalid. */
function services(vms: readonly VmWithLiveness[], withPort: boolean): Candidate[] {
  const all = vms.flatMap((vm) => (Array.isArray(vm.services) ? vm.services : []));
  return all
    .filter((service) => typeof service?.name === 'string' && !looksLikeFlag(service.name))
    .map(({ name, port }) => (withPort ? plain(`${name}:${port}`) : { value: name, about: `port ${port}` }));
}

function metadataKeys(vms: readonly VmWithLiveness[]): Candidate[] {
  return vms
    .flatMap(({ metadata }) => Object.keys(metadata ?? {}))
    .filter((key) => !looksLikeFlag(key) && /^[^=!,\s]+$/.test(key))
    .map(plain);
}

function withEquals(keys: readonly Candidate[]): Candidate[] {
  return keys.map(({ value }) => plain(`${value}=`));
}

/** The values of a metadata key as text. */
function metadataValues(vms: readonly VmWithLiveness[], key: string): Candidate[] {
  return vms.flatMap(({ metadata = {} }) => {
    if (!Object.hasOwn(metadata, key)) return [];
    const value = metadata[key];
    return plain(typeof value === 'string' ? value : JSON.stringify(value));
  });
}
