/** Text from outside, as a terminal and a log may have it. */

/** What came from outside must not move the cursor, end a line or open another column. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u001f]/g, '\ufffd').replace(UNSEEN, '\ufffd');
}

/** The same for JSON, where an escape keeps the value; what is below a space JSON escapes itself. */
export function escapeControls(json: string): string {
  return json.replace(UNSEEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** DEL, C1 controls (which terminals obey, too), line separators, and what turns the direction of writing. */
const UNSEEN = /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;
