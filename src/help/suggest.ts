/** Suggestions for misspelled words, and next steps for errors that have no hint. */
import { distance } from 'fastest-levenshtein';
import { type ErrorCode, VregError } from '../protocol/errors.ts';

/**
 * Returns `; did you mean "worker"?` if a known word is at most two edits away, and the edits are at most half the length of
 * the shorter word; otherwise an empty string.
 */
export function suggestion(word: string, known: readonly string[]): string {
  const near = known
    .map((candidate) => ({ candidate, edits: distance(word.toLowerCase(), candidate) }))
    .filter(({ candidate, edits }) => edits <= 2 && 2 * edits <= Math.min(word.length, candidate.length))
    .sort((a, b) => a.edits - b.edits)[0];
  return near ? `; did you mean "${near.candidate}"?` : '';
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

/** Converts commander's parse error. @param path as in {@link unknownCommand} */
export function usageError(cause: Error, path: readonly string[]): VregError {
  // The value of an unknown option may be a secret, so it is not repeated.
  const [message, more] = cause.message
    .replace(/^error: (unknown option '[^'=]*)=.*'(\n\(Did you mean [^\n]*)?$/s, "$1'$2")
    .replace(/^error: /, '')
    .split('\n', 2);
  const didYouMean = more === undefined ? '' : `; ${more.replace(/^\((.*)\)$/, '$1').replace(/^Did/, 'did')}`;
  return new VregError('USAGE', `${message}${didYouMean}`, { hint: `see the usage: ${path.join(' ')} --help`, cause });
}
