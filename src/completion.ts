/**
 * Shell completion. The scripts in `completions/` pass the words typed so far to the hidden command `vreg __complete`, which
 * replies with candidates. It writes nothing but its reply, asks nothing, and replies with what it has if the registry is slow.
 */
import type { Context } from './command.ts';
import { bashReply, readBashLine } from './completion/bash.ts';
import { type Completion, complete } from './completion/candidates.ts';

/**
 * Milliseconds from the start of the process to the reply. The shell waits for 30 ms more, in which the process starts and ends;
 * from 300 ms on, a wait looks like a hang.
 */
const TIME_LIMIT = 270;
/**
 * Milliseconds to wait for the registry on a busy machine, where the start of the process takes that long and leaves no time
 * within {@link TIME_LIMIT}: as long as the start, and at most this.
 */
const MAX_WAIT = 1200;

/**
 * The reply to the completion script of a shell. Never rejects: an error would appear in the line that the user is typing.
 * @param args the name of the shell and the arguments that its script passes
 * @param elapsed milliseconds since the start of the process
 */
export async function completionReply(args: readonly string[], context: Context, elapsed: number): Promise<string> {
  const timeout = Math.max(TIME_LIMIT - elapsed, Math.min(elapsed, MAX_WAIT));
  const [shell, ...rest] = args;
  try {
    if (shell !== 'bash') return reply(await complete(rest, context, timeout), shell === 'fish');
    const [text = '', wordBreaks = '', type = '', columns = ''] = rest;
    const line = readBashLine(text, wordBreaks);
    const completion = await complete(line.words, context, timeout, line.isRedirection);
    return bashReply(completion, line, { showsAbout: LISTS.has(type), columns: Number(columns) || 80 });
  } catch {
    return '';
  }
}

/** Values of COMP_TYPE with which bash lists the candidates: `?`, `!` and `@` (bash(1), COMP_TYPE). */
const LISTS: ReadonlySet<string> = new Set(['63', '33', '64']);

/** The reply for zsh and fish: `KIND<TAB>PREFIX`, then `VALUE<TAB>DESCRIPTION` for each candidate. */
function reply({ kind, prefix, candidates }: Completion, isFish: boolean): string {
  // Fish would expand a tilde at the start of a candidate.
  const usable = candidates.filter(({ value }) => !isFish || !`${prefix}${value}`.startsWith('~'));
  const lines = usable.map(({ value, about }) => `${value}\t${about}\n`);
  return `${kind}\t${prefix}\n${lines.join('')}`;
}
