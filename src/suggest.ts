import { distance } from 'fastest-levenshtein';

/** `: did you mean "worker"?` for a word that is one or two typing errors away from a known one, else nothing. */
export function suggestion(word: string, known: readonly string[]): string {
  const near = known
    .map((candidate) => ({ candidate, edits: distance(word.toLowerCase(), candidate) }))
    .filter(({ candidate, edits }) => edits <= (candidate.length > 3 ? 2 : 1))
    .sort((a, b) => a.edits - b.edits)[0];
  return near ? `: did you mean "${near.candidate}"?` : '';
}
