/** Suggestions for misspelled words, and next steps for errors that have no hint. */

import type { CommanderError } from 'commander';
import { distance } from 'fastest-levenshtein';
import { type ErrorCode, VregError } from '../protocol/errors.ts';

/** The next step after a token was passed as an argument. */
export const TOKEN_FILE_HINT = 'put the token into a file and use --token-file';

/** Characters of an abbreviated flag that gets a suggestion, with its dashes. Shorter ones match by accident. */
const MIN_ABBREVIATION = 5;

/**
 * Returns `; did you mean "worker"?` if a known word is at most two edits away, and the edits are at most half the length of
 * the shorter word; otherwise an empty string.
 */
export function suggestion(word: string, known: readonly string[]): string {
  const near = nearest(word, known);
  return near === undefined ? '' : `; did you mean "${near}"?`;
}

function nearest(word: string, known: readonly string[]): string | undefined {
  return known
    .map((candidate) => ({ candidate, edits: distance(word.toLowerCase(), candidate) }))
    .filter(({ candidate, edits }) => edits <= 2 && 2 * edits <= Math.min(word.length, candidate.length))
    .sort((a, b) => a.edits - b.edits)[0]?.candidate;
}

/** Next steps for errors without a hint: errors from the original registry (vers-agent-services), and validation errors. */
const NEXT_STEPS: Partial<Record<ErrorCode, string>> = {
  INVALID: 'see the accepted values with --help',
  UNAUTHORIZED: 'provide the token of the registry: VERS_AUTH_TOKEN, or --token-file FILE',
  FORBIDDEN: 'provide a token with the required scope: VERS_AUTH_TOKEN, or --token-file FILE',
  NOT_FOUND: 'list registered VMs: vreg ls',
  CONFLICT: 'list registered VMs: vreg ls',
  BUSY: 'try again in a second',
  TOO_MANY_REQUESTS: 'try again in a second',
  INTERNAL: 'see the log of the registry',
  REFUSED: 'pass --yes',
  USAGE: 'see the usage with --help',
};

export function nextStep(error: VregError): string | undefined {
  return error.hint ?? NEXT_STEPS[error.code];
}

/**
 * @param names known commands and aliases
 * @param path the words before the command, beginning with `vreg`
 */
export function unknownCommand(word: string, names: readonly string[], path: readonly string[] = ['vreg']): VregError {
  return new VregError('USAGE', `unknown command: ${path.slice(1).concat(word).join(' ')}${suggestion(word, names)}`, {
    hint: `list the commands: ${path.join(' ')} --help`,
  });
}

/**
 * Converts commander's parse error.
 * @param path as in {@link unknownCommand}
 * @param flags the long flags of the command, with dashes
 */
export function usageError(cause: CommanderError, path: readonly string[], flags: readonly string[]): VregError {
  const hint = `see the usage: ${path.join(' ')} --help`;
  if (cause.code !== 'commander.unknownOption')
    return new VregError('USAGE', cause.message.replace(/^error: /, ''), { hint, cause });
  // The value of an unknown option may be a secret, so neither the message nor the cause repeats it.
  const [, flag = ''] = /'([^'=]*)/.exec(cause.message) ?? [];
  if (TOKEN_FLAG.test(flag)) return new VregError('USAGE', `unknown option '${flag}'`, { hint: TOKEN_FILE_HINT });
  return new VregError('USAGE', `unknown option '${flag}'${flagSuggestion(flag, flags)}`, { hint });
}

/** `--token`, `--auth-token`: other users of the machine can read such a value in the list of processes. */
const TOKEN_FLAG = /^--?([a-z]+-)?token$/i;

/** Same as {@link suggestion}, for a flag, which may also be abbreviated or begin with one dash. */
function flagSuggestion(flag: string, flags: readonly string[]): string {
  const word = `--${flag.replace(/^-+/, '')}`;
  const isLong = word.length >= MIN_ABBREVIATION;
  const near = (isLong ? flags.find((each) => each.startsWith(word)) : undefined) ?? nearest(word, flags);
  return near === undefined ? '' : `; did you mean ${near}?`;
}
