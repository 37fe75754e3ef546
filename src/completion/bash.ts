/**
 * The bash side of completion. Bash passes the line as typed, and readline replaces only the text after the last word break (a
 * character of COMP_WORDBREAKS such as `:` or `=`). Therefore this module splits the line, and cuts and quotes the candidates.
 */
import type { Completion } from './candidates.ts';

type Quote = '' | '"' | "'";

export interface BashLine {
  /** The words after the program without quotes, up to the cursor; the last one may be empty. */
  words: string[];
  /** Number of characters of the last word that readline does not replace. */
  kept: number;
  /** The quote that is open at the cursor. */
  quote: Quote;
  /** The last word is the file of a redirection. */
  isRedirection: boolean;
}

/**
 * Splits a line as bash does, but expands nothing.
 * @param text the line up to the cursor
 * @param wordBreaks the value of COMP_WORDBREAKS
 */
export function readBashLine(text: string, wordBreaks: string): BashLine {
  const words: string[] = [];
  let word: string | undefined;
  let kept = 0;
  let quote: Quote = '';
  /** Length of the word before the quote. */
  let quoteStart = 0;
  let isRedirection = false;
  const endWord = () => {
    if (word === undefined) return;
    if (!isRedirection) words.push(word);
    isRedirection = false;
    word = undefined;
    kept = 0;
  };
  for (let at = 0; at < text.length; at++) {
    const character = text[at]!;
    const following = text[at + 1] ?? '';
    const substitution = /^[$<>]\(/.test(text.slice(at, at + 2)) ? closingParenthesis(text, at + 1) : -1;
    if (quote !== '') {
      const isEscape = quote === '"' && character === '\\' && following !== '' && '"\\$`'.includes(following);
      if (isEscape) at++;
      if (!isEscape && character === quote) quote = '';
      else word += isEscape ? following : character;
    } else if (substitution > 0) {
      word = (word ?? '') + text.slice(at, substitution + 1);
      at = substitution;
    } else if (character === '\\') {
      word = (word ?? '') + following;
      at++;
    } else if (character === '"' || character === "'") {
      word ??= '';
      quote = character;
      quoteStart = word.length;
    } else if (/[ \t\n]/.test(character)) endWord();
    else if ('<>'.includes(character)) {
      // The number of a file descriptor, as in `2>file`, is no word.
      if (word !== undefined && /^\d+$/.test(word)) word = undefined;
      endWord();
      isRedirection = true;
    } else if (';|&('.includes(character) && !isRedirection) {
      endWord();
      // Another command begins.
      words.length = 0;
    } else {
      word = (word ?? '') + character;
      // Readline replaces an @ together with the following text, because it may complete host names.
      if (wordBreaks.includes(character)) kept = character === '@' ? word.length - 1 : word.length;
    }
  }
  return { words: [...words.slice(1), word ?? ''], kept: quote === '' ? kept : quoteStart, quote, isRedirection };
}

/** Index of the parenthesis that closes the one at `open`; -1 if there is none. */
function closingParenthesis(text: string, open: number): number {
  let depth = 0;
  for (let at = open; at < text.length; at++) {
    if (text[at] === '(') depth++;
    if (text[at] === ')' && --depth === 0) return at;
  }
  return -1;
}

export interface BashList {
  /** Bash lists the candidates instead of inserting one, so that descriptions may follow them. */
  showsAbout: boolean;
  /** Columns of the terminal. */
  columns: number;
}

/**
 * The reply for bash: the kind, then one line for each element of COMPREPLY. For the kind `prefixed-files`, the lines are the
 * start of the word that readline would replace together with the file name, and the start of the file name.
 */
export function bashReply(
  { kind, prefix, candidates }: Completion,
  { words, kept, quote }: Pick<BashLine, 'words' | 'kept' | 'quote'>,
  { showsAbout, columns }: BashList,
): string {
  if (kind === 'files' && prefix.length > kept) {
    const file = words.at(-1)!.slice(prefix.length);
    return `prefixed-files\n${quoteFor(quote, prefix.slice(kept))}\n${file}\n`;
  }
  const shown = candidates.map(({ value }) => quoteFor(quote, `${prefix}${value}`.slice(kept)));
  const width = Math.max(0, ...shown.map((text) => text.length));
  const lines = shown.map((text, index) => {
    const { about } = candidates[index]!;
    if (!showsAbout || shown.length < 2 || about === '') return text;
    // Two spaces and two parentheses. Bash would wrap a longer line.
    const room = columns - width - 5;
    const cut = about.length > room ? `${about.slice(0, Math.max(0, room - 1))}…` : about;
    return room < 10 ? text : `${text.padEnd(width)}  (${cut})`;
  });
  return [kind, ...lines, ''].join('\n');
}

/** Quotes text for a place inside a quote or outside of any. */
function quoteFor(quote: Quote, text: string): string {
  if (quote === '') return text.replace(/[^\w\-./:=@%+,\u0080-\uffff]/g, '\\$&');
  const quoted =
    quote === "'"
      ? text.replaceAll("'", `'\\''`)
      : // A backslash before ! would remain in double quotes, so the quotes are closed around it.
        text.replace(/["\\$`]/g, '\\$&').replaceAll('!', '"\\!"');
  // Readline removes a quote that follows the open one, and closes no quote after another one (insert_match and append_to_match
  // in complete.c).
  return `${quoted.startsWith(quote) ? quote : ''}${quoted}${quoted.endsWith(quote) ? quote : ''}`;
}
