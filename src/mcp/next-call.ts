/** The next call after an error: one that the client can make, and that helps in its situation. */
import { ASK_THE_DOCTOR } from '../client/connection.ts';
import { nextStep } from '../help/suggest.ts';
import type { VregError } from '../protocol/errors.ts';
import { cause, cleanText } from './answer-text.ts';
import type { Arguments, Tool } from './tool.ts';

/** The failed call. */
export interface Situation {
  /** Name of the tool, or a method of the protocol. */
  tool: string;
  args: Arguments;
  /** The parameters of the tool. */
  parameters: readonly string[];
  /** Names of the tools that this server offers. */
  tools: readonly string[];
  /** The call was about this VM. */
  isOwn: boolean;
}

/** A person who can run `vreg` and change its settings. */
const ask = (what: string) => `ask the operator ${what}`;

const CHECK_URL = ask('to check the URL of the registry (VERS_INFRA_URL)');

/** The text of an error of a tool: its cause, and the next call. */
export function errorText(
  error: VregError,
  { name, input }: Tool,
  situation: Pick<Situation, 'args' | 'tools' | 'isOwn'>,
): string {
  const parameters = Object.keys(input.properties);
  return `${cause(error)}\nNext: ${nextCall(error, { ...situation, tool: name, parameters })}`;
}

export function nextCall(error: VregError, situation: Situation): string {
  return cleanText(chooseNext(error, situation));
}

function chooseNext(error: VregError, situation: Situation): string {
  const { code, hint, retryAfter } = error;
  const { tool } = situation;
  const offers = (name: string) => situation.tools.includes(name);
  const status = offers('registry_status') && tool !== 'registry_status' ? 'registry_status {}' : undefined;
  const again = `the same call ${retryAfter === undefined ? 'in a few seconds' : `after ${retryAfter} s`}`;
  switch (code) {
    case 'INVALID':
    case 'USAGE':
      return afterInvalid(error, situation) ?? status ?? ask('to run: vreg doctor');
    case 'UNAUTHORIZED':
      return ask('for a valid token of the registry (VERS_AUTH_TOKEN, or vreg mcp --token-file FILE)');
    case 'FORBIDDEN':
      return ask('for a token with the required scope (VERS_AUTH_TOKEN, or vreg mcp --token-file FILE)');
    case 'NOT_FOUND':
      return afterNotFound(situation, offers);
    case 'CONFLICT':
      return tool === 'registry_register' ? afterConflict(situation, offers) : (status ?? ask('to run: vreg doctor'));
    case 'IDENTITY_CONFLICT':
      // Hints of the tools name a call; those of the registry name a command.
      return hint && isCall(hint, offers)
        ? hint
        : ask('to run in this VM: vreg daemon agent --on-clone rebirth --detach');
    case 'TOO_LARGE':
      return SENDS_ENTRY.includes(tool) ? `${tool} with fewer services and less metadata` : CHECK_URL;
    case 'STORE_FULL':
      return ask('to free disk space of the registry; tools that only read still work');
    case 'UNREACHABLE':
      // A hint other than the general one says that the settings are wrong, so that a repetition would fail as well.
      if (hint !== undefined && hint !== ASK_THE_DOCTOR) return ask(`to correct the settings: ${hint}`);
      return status ?? again;
    case 'OUTCOME_UNKNOWN':
      return tool === 'registry_register'
        ? `${again}; if the VM is then already registered, the first call has registered it`
        : `${again}, which has no further effect if the first one was made`;
    case 'BUSY':
    case 'STORE_FAILED':
    case 'TOO_MANY_REQUESTS':
    case 'REQUEST_TIMEOUT':
    case 'PRECONDITION_FAILED':
      return again;
    case 'UNSUPPORTED':
      return offers('registry_list')
        ? 'registry_list {}, which each registry supports'
        : ask('to upgrade the registry');
    case 'INTERNAL':
      return ask('to look at the log of the registry');
    case 'BAD_ANSWER':
      return CHECK_URL;
    default:
      return ask(`to correct it: ${nextStep(error) ?? 'vreg doctor'}`);
  }
}

/** The tools whose arguments become an entry of the registry. */
const SENDS_ENTRY: readonly string[] = ['registry_register', 'registry_update'];

function isCall(hint: string, offers: (name: string) => boolean): boolean {
  if (hint.startsWith('repeat the call with {')) return true;
  const [, name] = /^(registry_\w+)/.exec(hint) ?? [];
  return name !== undefined && offers(name);
}

/** A flag of the command line, which no tool has. */
const FLAG = /(^|\s)--[a-z]/;

/** @returns undefined if it is not known what is invalid */
function afterInvalid({ field, hint, code }: VregError, { tool, args, parameters }: Situation): string | undefined {
  if (field === undefined && hint === undefined) return undefined;
  // `services[0].port` belongs to the parameter "services".
  const [name = ''] = field?.split(/[.[]/) ?? [];
  const isUnknown = Object.hasOwn(args, name) && !parameters.includes(name);
  const change =
    field === undefined ? 'with other arguments' : isUnknown ? `without "${field}"` : `with a valid "${field}"`;
  const how = hint === undefined || code === 'USAGE' || FLAG.test(hint) ? '' : ` (${hint})`;
  if (field === undefined || code === 'INVALID' || parameters.includes(name)) return `${tool} again ${change}${how}`;
  return ask(`to correct the settings: ${hint ?? `a valid ${field}`}`);
}

function afterNotFound({ tool, args, parameters, isOwn }: Situation, offers: (name: string) => boolean): string {
  // The call was about no VM, so that the route itself does not exist.
  if (!parameters.includes('id') || args.role !== undefined) return CHECK_URL;
  if (tool === 'registry_deregister') return 'nothing to do: the VM is not registered';
  if (isOwn && offers('registry_register')) return 'registry_register {}, which registers this VM';
  if (isOwn) return ask('to run in this VM: vreg register');
  return offers('registry_list') ? 'registry_list {}' : ask('for the id of the VM: vreg ls');
}

function afterConflict({ args, isOwn }: Situation, offers: (name: string) => boolean): string {
  const { id, self } = args;
  // An update of an entry does not make a clone act as that VM.
  if ((self === true && !isOwn) || !offers('registry_update')) return 'registry_register with another "id"';
  if (isOwn) return 'registry_update {"status":"running"}, which renews the entry of this VM';
  return `registry_update {"id":${JSON.stringify(id)},"status":"running"}, if this is the VM that you mean`;
}
