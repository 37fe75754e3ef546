/**
 * Shell completion. The scripts in `completions/` pass the words typed so far to the hidden command `vreg __complete`, which
 * replies with candidates. It writes nothing but its reply, asks nothing, and replies with what it has if the registry is slow.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Context } from './command.ts';
import { bashReply, readBashLine } from './completion/bash.ts';
import { type Completion, complete } from './completion/candidates.ts';

declare const __DIST__: string | undefined;

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** File names under which the shells find the scripts in their completion folders. */
const SHELL_FILES: Readonly<Record<Shell, string>> = { bash: 'vreg.bash', zsh: '_vreg', fish: 'vreg.fish' };
const SCRIPTS = join(typeof __DIST__ === 'string' ? __DIST__ : import.meta.dirname, '../completions');

/** Milliseconds from pressing Tab to the reply: a longer wait would look like a hang. */
const TIME_LIMIT = 300;

export function completionScript(shell: Shell): string {
  return readFileSync(join(SCRIPTS, SHELL_FILES[shell]), 'utf8');
}

/**
 * The reply to the completion script of a shell. Never rejects: an error would appear in the line that the user is typing.
 * @param args the name of the shell and the arguments that its script passes
 * @param elapsed milliseconds since the start of the process
 */
export async function completionReply(args: readonly string[], context: Context, elapsed: number): Promise<string> {
  // On a busy machine, the request to the registry is as slow as the start.
  const timeout = Math.max(TIME_LIMIT - elapsed, Math.min(elapsed, TIME_LIMIT * 4));
  const [shell, ...rest] = args;
  try {
    if (shell !== 'bash') return reply(await complete(rest, context, timeout));
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
function reply({ kind, prefix, candidates }: Completion): string {
  const lines = candidates.map(({ value, about }) => `${value}\t${about}\n`);
  return `${kind}\t${prefix}\n${lines.join('')}`;
}
