/** Files that consist only of text from vreg. Their last line has a digest, which shows whether somebody edited them. */
import { createHash } from 'node:crypto';
import type { Change } from './change.ts';

const SIGNATURE = /(?:<!--|\/\/) vreg setup: sha256 ([0-9a-f]{64})(?: -->)?\n$/;

export function writeOwned(before: string | undefined, text: string, syntax: 'markdown' | 'script'): Change {
  const signed = sign(text, syntax);
  if (before === undefined) return { text: signed, isEdited: false };
  if (withLineFeeds(before) !== text && !isUnedited(before)) return { text: before, isEdited: true };
  return { text: before.includes('\r\n') ? signed.replaceAll('\n', '\r\n') : signed, isEdited: false };
}

export function removeOwned(before: string | undefined): Change {
  if (before === undefined || isUnedited(before)) return { text: undefined, isEdited: false };
  return { text: before, isEdited: true };
}

/** Git may convert the line endings of a project, which is no edit. */
function withLineFeeds(text: string): string {
  return text.replaceAll('\r\n', '\n');
}

function sign(text: string, syntax: 'markdown' | 'script'): string {
  const ended = text.endsWith('\n') ? text : `${text}\n`;
  const line = `vreg setup: sha256 ${digestOf(ended)}`;
  return `${ended}${syntax === 'markdown' ? `<!-- ${line} -->` : `// ${line}`}\n`;
}

function isUnedited(before: string): boolean {
  const text = withLineFeeds(before);
  const found = SIGNATURE.exec(text);
  return found !== null && digestOf(text.slice(0, found.index)) === found[1];
}

function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
