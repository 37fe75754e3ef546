/** Text of clients in the log. */
import { redact } from '../process/log.ts';

/** Characters of a client's text in one log line: a request must not cost more in the log than it did on the wire. */
const MAX_LOGGED = 1024;

/** The beginning of a long text. Secrets are masked before the cut, because half of one would not be recognized. */
export function shortened(text: string): string {
  return text.length > MAX_LOGGED ? `${redact(text).slice(0, MAX_LOGGED)}…` : text;
}
